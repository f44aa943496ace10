"""The rules, one function each: it yields a sentence for each thing that is wrong."""

import functools
import re
import shlex

import jsonschema
import kubernetes_validate
import yaml

import facts
from model import ROOT, Platform, environment, template, text

VERSIONS = ("1.32", "1.37")
RULES = []
KEEPER, AUDIT = "topology", "audit"
# They listen on nothing, so that no probe can ask them; one is enough.
SILENT = {KEEPER, AUDIT}


def rule(function):
    RULES.append(function)
    return function


def called(thing):
    return f"{thing['kind']} {thing['metadata']['name']}"


@functools.cache
def custom():
    """The schemas of custom resources, which refuse what they do not know, as `kubectl apply` does."""
    found = {}
    for path in sorted((ROOT / "test/k8s/crds").glob("*.yaml")):
        for crd in yaml.safe_load_all(path.read_text()):
            for version in crd["spec"]["versions"]:
                schema = version["schema"]["openAPIV3Schema"]
                closed(schema)
                schema["properties"].update({"apiVersion": {"type": "string"}, "kind": {"type": "string"}})
                schema["properties"]["metadata"] = {"type": "object"}
                found[f"{crd['spec']['group']}/{version['name']}", crd["spec"]["names"]["kind"]] = jsonschema.Draft202012Validator(schema)
    return found


def closed(schema):
    if isinstance(schema, dict):
        if "properties" in schema and isinstance(schema["properties"], dict) and not schema.get("x-kubernetes-preserve-unknown-fields"):
            schema.setdefault("additionalProperties", False)
        for value in schema.values():
            closed(value)
    elif isinstance(schema, list):
        for value in schema:
            closed(value)


@rule
def schema(platform):
    """Every object is as the real schemas say, and has nothing that they do not know."""
    for thing in platform.things:
        validator = custom().get((thing["apiVersion"], thing["kind"]))
        if validator:
            for error in validator.iter_errors(thing):
                yield f"{called(thing)}: {'.'.join(map(str, error.path))}: {error.message[:200]}"
            continue
        for version in VERSIONS:
            try:
                kubernetes_validate.validate(thing, version, strict=True)
            except (kubernetes_validate.ValidationError, kubernetes_validate.InvalidSchemaError) as error:
                yield f"{called(thing)}: Kubernetes {version}: {str(error.message)[:200]}"
            except kubernetes_validate.SchemaNotFoundError:
                yield f"{called(thing)}: Kubernetes {version} has no {thing['apiVersion']} {thing['kind']}"


@rule
def probes(platform):
    """Startup, readiness and liveness, at a port that is open and a path that is answered, by a program that is there; only readiness says what it waits for."""
    for name, container in platform.containers():
        if name in SILENT:
            continue
        for kind in ("startupProbe", "readinessProbe", "livenessProbe"):
            probe = container.get(kind)
            if probe is None:
                yield f"{name}: no {kind}"
                continue
            if len(probe.keys() & {"httpGet", "tcpSocket", "exec"}) != 1:
                yield f"{name}: {kind} does not ask in one way"
            yield from (f"{name}: {kind} {wrong}" for wrong in run(container, probe.get("exec", {}).get("command", []), kind == "readinessProbe"))
            asked = probe.get("httpGet") or probe.get("tcpSocket")
            if asked and asked["port"] not in [port["name"] for port in container.get("ports", [])]:
                yield f"{name}: {kind} asks at {asked['port']}, which is no port of it"
            if "httpGet" in probe and asked["path"] not in facts.paths(container):
                yield f"{name}: {kind} asks for {asked['path']}, which nobody answers"
            if kind != "readinessProbe" and asked and asked.get("path") == "/health/ready":
                yield f"{name}: {kind} would restart it for what others do not have"
        if name in facts.SERVICES and container.get("readinessProbe", {}).get("httpGet", {}).get("path") != "/health/ready":
            yield f"{name}: its readiness is not /health/ready"


def run(container, words, may_wait):
    """What is wrong with the command of a probe, and with those of a pipeline that it gives to the shell."""
    pipeline = [shlex.split(part) for part in words[2].split("|")] if words[:2] == ["sh", "-c"] else []
    for command in [words, *pipeline]:
        if command and command[0] not in facts.programs(container):
            yield f"runs {command[0]}, which is not there"
        if command and command[0] == "redis-cli":
            asked = int(command[command.index("-p") + 1]) if "-p" in command else 6379
            if asked not in [port["containerPort"] for port in container.get("ports", [])]:
                yield f"asks at {asked}, which is no port of it"
            if "role" in command and not may_wait:
                yield "would restart it for what others do not have"


def quantity(said):
    number, unit = re.match(r"([\d.]+)([a-zA-Z]*)$", str(said)).groups()
    return float(number) * {"": 1, "m": 0.001, "k": 1e3, "M": 1e6, "G": 1e9, "Ki": 2**10, "Mi": 2**20, "Gi": 2**30}[unit]


@rule
def limits(platform):
    """Every container asks for CPU and memory, and has a limit of both that is no less. nginx has as many workers as processors."""
    for name, container in platform.containers():
        given = [container.get("resources", {}).get(kind, {}) for kind in ("requests", "limits")]
        if any(set(each) != {"cpu", "memory"} for each in given):
            yield f"{name}: {container['name']} has not requests and limits of cpu and memory"
            continue
        requests, most = given
        for kind in requests:
            if quantity(requests[kind]) > quantity(most[kind]):
                yield f"{name}: {container['name']} asks for {requests[kind]} of {kind}, and may have {most[kind]}"
        if name == "gateway" and quantity(most["cpu"]) != facts.workers():
            yield f"{name}: {facts.workers()} workers for {most['cpu']} processors"


@rule
def restricted(platform):
    """The `restricted` profile, a read-only root file system, and a namespace that enforces it."""
    for name in platform.pods:
        pod = platform.pod(name)
        context = pod.get("securityContext", {})
        if not context.get("runAsNonRoot") or not context.get("runAsUser") or context.get("seccompProfile") != {"type": "RuntimeDefault"}:
            yield f"{name}: its pod's securityContext is not restricted"
        for container in pod["containers"] + pod.get("initContainers", []):
            if container.get("securityContext") != {"allowPrivilegeEscalation": False, "readOnlyRootFilesystem": True, "capabilities": {"drop": ["ALL"]}}:
                yield f"{name}: {container['name']}'s securityContext is not restricted"
        for key in ("hostNetwork", "hostPID", "hostIPC"):
            if pod.get(key):
                yield f"{name}: {key}"
        for volume in pod.get("volumes", []):
            if set(volume) - {"name"} not in ({"configMap"}, {"secret"}, {"emptyDir"}, {"projected"}):
                yield f"{name}: volume {volume['name']} is of a kind that is not allowed"
    for namespace in platform.of("Namespace"):
        if namespace["metadata"]["labels"].get("pod-security.kubernetes.io/enforce") != "restricted":
            yield f"{called(namespace)} does not enforce the restricted profile"


@rule
def tokens(platform):
    """Each workload has a ServiceAccount of its own, and no token."""
    accounts = {account["metadata"]["name"]: account for account in platform.of("ServiceAccount")}
    users = {}
    for name in platform.pods:
        pod = platform.pod(name)
        account = pod.get("serviceAccountName")
        if account not in accounts or accounts[account].get("automountServiceAccountToken") is not False or pod.get("automountServiceAccountToken") is not False:
            yield f"{name}: no ServiceAccount without token"
        if users.setdefault(account, name) != name:
            yield f"{name} shares its ServiceAccount with {users[account]}"
    for account in accounts.keys() - users.keys():
        yield f"nobody uses ServiceAccount {account}"


@rule
def endings(platform):
    """preStop and the time that the program itself takes to end fit into the grace period."""
    for name, container in platform.containers():
        wait = container.get("lifecycle", {}).get("preStop", {}).get("sleep", {}).get("seconds", 0)
        needed, given = wait + facts.drain_seconds(facts.program_of(container), container), platform.pod(name)["terminationGracePeriodSeconds"]
        if given <= needed:
            yield f"{name}: {given} s of grace, and it may take {needed} s"
        remembered = 30 if name in facts.SERVICES else 5  # The gateway has an address of its own.
        if (name in facts.SERVICES or name == "gateway") and wait < remembered:
            yield f"{name}: preStop is shorter than it is remembered ({remembered} s)"


@rule
def variables(platform):
    """Every variable exists in the program that gets it; what a script cannot do without is there."""
    for name, container in platform.containers():
        program, given = facts.program_of(container), set(environment(container))
        if program in facts.SCRIPTS:
            used, optional = facts.script_variables(facts.SCRIPTS[program])
            known = used | optional | facts.RUNTIME
            for missing in used - optional - given:
                yield f"{name}: {program} needs {missing}"
        elif program in (*facts.SERVICES, *facts.COMMANDS):
            known = set(facts.settings(program))
        else:
            known = set()
        for wrong in given - known:
            yield f"{name}: {program} knows no {wrong}"


@rule
def ports(platform):
    """Every port that a manifest names is one at which the program listens, and the other way round."""
    for name, container in platform.containers():
        named, real = {port["containerPort"] for port in container.get("ports", [])}, facts.listens(container, environment(container))
        if named != real:
            yield f"{name}: {container['name']} listens at {sorted(real)}, and the manifest says {sorted(named)}"
    for name in platform.pods:
        told = template(platform.pods[name])["metadata"].get("annotations", {}).get("prometheus.io/port")
        if told and int(told) not in platform.ports(name).values():
            yield f"{name}: Prometheus is sent to {told}, where nobody listens"


@rule
def services(platform):
    """Every Service selects pods, and each of its ports is one of theirs."""
    for name, service in platform.services.items():
        found = platform.selected(service["spec"]["selector"])
        if not found:
            yield f"Service {name} selects nobody"
        for port in service["spec"]["ports"]:
            for pod in found:
                target = port.get("targetPort", port["port"])
                if target not in platform.ports(pod) and target not in platform.ports(pod).values():
                    yield f"Service {name}: {pod} has no port {target}"
    for name, workload in platform.pods.items():
        if workload["kind"] == "StatefulSet" and workload["spec"]["serviceName"] not in platform.services:
            yield f"{name}: its Service {workload['spec']['serviceName']} is missing"
    for thing in platform.of("Ingress"):
        for path in (path for rules in thing["spec"]["rules"] for path in rules["http"]["paths"]):
            backend = path["backend"]["service"]
            at = platform.services.get(backend["name"], {"spec": {"ports": []}})["spec"]["ports"]
            if not any(port["name"] == backend["port"].get("name") or port["port"] == backend["port"].get("number") for port in at):
                yield f"{called(thing)}: no such backend as {backend}"
    for thing in platform.of("HTTPRoute"):
        for backend in (backend for rules in thing["spec"]["rules"] for backend in rules["backendRefs"]):
            try:
                platform.reached(backend["name"], backend["port"])
            except LookupError as error:
                yield f"{called(thing)}: {error}"


@rule
def files(platform):
    """Secrets and configuration: each key that a pod mounts exists, each file that it is told of is mounted, and it has no other password."""
    keys = set(re.findall(r"[\w-]+", re.search(r"files: \[(.*)\]", text("compose/secrets/kustomization.yaml"))[1])) | {"nats-admin-name"}
    maps = {thing["metadata"]["name"]: set(thing.get("data", {})) for thing in platform.of("ConfigMap")}
    for thing in platform.of("Secret"):
        if set(thing["data"]) != keys:
            yield f"{called(thing)} has not the keys {sorted(keys)}"
    for name in platform.pods:
        mounted = {}
        for volume in platform.pod(name).get("volumes", []):
            items = set()
            for source in volume.get("projected", {}).get("sources", [volume]):
                if "configMap" in source:
                    had = maps.get(source["configMap"]["name"], set())
                    taken = source["configMap"].get("items") or [{"key": key, "path": key} for key in had]
                    if not had or {item["key"] for item in taken} - had:
                        yield f"{name}: {source['configMap']} has not what it takes from it"
                    items |= {item["path"] for item in taken}
                elif "secret" in source:
                    taken = source["secret"].get("items")
                    if not taken or {item["key"] for item in taken} - keys:
                        yield f"{name}: takes from Secret {source['secret']['secretName']} what is not there, or all of it"
                    items |= {item["path"] for item in taken or []}
            mounted[volume["name"]] = items
        for container in platform.pod(name)["containers"]:
            there = {f"{mount['mountPath']}/{item}" for mount in container.get("volumeMounts", []) for item in mounted.get(mount["name"], ())}
            told = {value for key, value in environment(container).items() if key.endswith("_FILE")} | {word for word in container.get("command", []) if word.endswith(".sh")}
            for missing in told - there:
                yield f"{name}: {missing} is not mounted"
            if name in (*facts.SERVICES, *SILENT):
                if "/run/secrets/sentinel" in there:
                    yield f"{name}: has the password of the sentinels' administrator"
                for more in {path for path in there if path.startswith("/run/secrets/")} - told:
                    yield f"{name}: has {more}, and is not told of it"


@rule
def disruption(platform):
    """Of each workload one pod at most goes at a time, and its pods are spread over nodes."""
    budgets = [budget["spec"] for budget in platform.of("PodDisruptionBudget")]
    for budget in budgets:
        if not platform.selected(budget["selector"]["matchLabels"]):
            yield f"a PodDisruptionBudget selects nobody: {budget}"
    for name in platform.pods.keys() - SILENT:
        if sum(platform.selected(b["selector"]["matchLabels"]) == [name] and b.get("maxUnavailable") == 1 for b in budgets) != 1:
            yield f"{name}: not exactly one PodDisruptionBudget of one pod at a time"
        spread = platform.pod(name).get("topologySpreadConstraints", [])
        if not any(platform.selected(s["labelSelector"]["matchLabels"]) == [name] and s["topologyKey"] == "kubernetes.io/hostname" for s in spread):
            yield f"{name}: not spread over nodes"
        if platform.pods[name]["kind"] == "StatefulSet" and platform.pods[name]["spec"]["replicas"] > 1 and spread and spread[0]["whenUnsatisfiable"] != "DoNotSchedule":
            yield f"{name}: two of its nodes may share one"


@rule
def scaling(platform):
    """Whatever scales says alone how many there are, of something that exists, by a durable that exists."""
    workloads = {thing["metadata"]["name"]: (name, thing) for name, thing in platform.pods.items()}
    scaled = {}
    for thing in platform.of("HorizontalPodAutoscaler") + platform.of("ScaledObject"):
        target = thing["spec"]["scaleTargetRef"]["name"]
        if target not in workloads or workloads[target][1]["kind"] != "Deployment":
            yield f"{called(thing)}: there is no Deployment {target}"
            continue
        if scaled.setdefault(target, called(thing)) != called(thing):
            yield f"{target}: scaled by two, {scaled[target]} and {called(thing)}"
        if "replicas" in workloads[target][1]["spec"]:
            yield f"{target}: scaled by {called(thing)}, and `replicas` would reset it"
        for trigger in thing["spec"].get("triggers", []):
            if trigger["type"] == "nats-jetstream" and (trigger["metadata"]["stream"], trigger["metadata"]["consumer"]) != ("CHECKOUT", workloads[target][0]):
                yield f"{called(thing)}: looks at another durable"
    if platform.overlay != "dev" and scaled.keys() != {"gateway", *(f"{name}-service" for name in facts.SERVICES)}:
        yield f"scaled are {sorted(scaled)}"


@rule
def copies(platform):
    """Of each stream there are as many copies as nats-servers."""
    copies = {int(environment(container)["STREAM_REPLICAS"]) for name, container in platform.containers() if "STREAM_REPLICAS" in environment(container)}
    copies |= {stream["spec"]["replicas"] for stream in platform.of("Stream")}
    if copies != {platform.pods["nats"]["spec"]["replicas"]}:
        yield f"copies of streams: {copies}, servers: {platform.pods['nats']['spec']['replicas']}"


@rule
def asked(platform):
    """What is to run once runs when somebody asks for it, and is not tried again, which would hide what it found."""
    for name, job in platform.pods.items():
        if job["kind"] == "CronJob":
            inner = job["spec"]["jobTemplate"]["spec"]
            if job["spec"].get("suspend") is not True:
                yield f"{name}: runs unasked"
            if inner.get("backoffLimit") != 0 or platform.pod(name).get("restartPolicy") != "Never":
                yield f"{name}: is tried again"


@rule
def restore(platform):
    """The pod by which k8s/README.md puts a database's files back is in order, is the same user as the database, and mounts what its first node has."""
    written = re.search(r"<<POD\n(.*?)^POD$", text("k8s/README.md"), re.S | re.M)[1]
    for service in facts.SERVICES:
        pod, name = yaml.safe_load(written.replace("$group", service)), f"redis-{service}"
        yield from schema(Platform(platform.overlay, [pod]))
        its, container = platform.pod(name), pod["spec"]["containers"][0]
        wanted = {key: value for key, value in its["securityContext"].items() if key != "fsGroupChangePolicy"}
        if pod["spec"]["securityContext"] != wanted or container["securityContext"] != its["containers"][0]["securityContext"]:
            yield f"{called(pod)}: is another user than {name}, or may do something else"
        if container["image"] != its["containers"][0]["image"]:
            yield f"{called(pod)}: is of another image than {name}"
        claims = [f"{claim['metadata']['name']}-{platform.pods[name]['metadata']['name']}-0" for claim in platform.pods[name]["spec"]["volumeClaimTemplates"]]
        if [volume["persistentVolumeClaim"]["claimName"] for volume in pod["spec"]["volumes"]] != claims:
            yield f"{called(pod)}: does not mount {claims}"


@rule
def images(platform):
    """Images are those of compose.yaml, of a version; ours are by name, of one version. The next version of a service comes instance by instance."""
    known, ours = facts.compose_images(), set()
    for name, container in platform.containers():
        if container["image"].startswith("checkout/"):
            ours.add(container["image"].split(":")[1])
        elif container["image"] not in known:
            yield f"{name}: {container['image']} is not what compose.yaml has"
        if name in facts.SERVICES:
            if container["image"].split(":")[0] != f"checkout/{name}":
                yield f"{name}: runs {container['image']}"
            if platform.pods[name]["spec"].get("strategy") != {"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": 0, "maxSurge": 1}}:
                yield f"{name}: an upgrade would take an instance away before there is another"
    if len(ours) != 1:
        yield f"our images are of versions {sorted(ours)}"


def seconds(duration):
    number, unit = re.match(r"(\d+)(ms|s|m|h)$", duration).groups()
    return int(number) * {"ms": 0.001, "s": 1, "m": 60, "h": 3600}[unit]


@rule
def streams(platform):
    """NACK's resources say what nats/src/topology.rs says; there is either them or the keeper."""
    given = {thing["spec"]["name"]: thing["spec"] for thing in platform.of("Stream")}
    if bool(given) == (KEEPER in platform.pods):
        yield "either NACK makes the streams, or the keeper of the topology: one of them"
    if not given:
        return
    wanted, discards, durables, ack_wait, max_ack_pending = facts.topology()
    if given.keys() != wanted.keys():
        yield f"streams are {sorted(given)}, and should be {sorted(wanted)}"
    for name in given.keys() & wanted.keys():
        is_now = (sorted(given[name]["subjects"]), given[name]["maxBytes"], seconds(given[name]["maxAge"]))
        should = (sorted(wanted[name][0]), wanted[name][1], wanted[name][2])
        if is_now != should:
            yield f"stream {name}: {is_now}, and should be {should}"
        rest = {key: given[name].get(key) for key in ("retention", "storage", "discard", "maxMsgs", "duplicateWindow", "allowDirect")}
        if rest != {"retention": "limits", "storage": "file", "discard": discards.get(name), "maxMsgs": -1, "duplicateWindow": "100ms", "allowDirect": True}:
            yield f"stream {name}: {rest}"
    consumers = {thing["spec"]["durableName"]: thing["spec"] for thing in platform.of("Consumer")}
    if consumers.keys() != durables.keys():
        yield f"durables are {sorted(consumers)}, and should be {sorted(durables)}"
    for name in consumers.keys() & durables.keys():
        spec = consumers[name]
        is_now = (sorted(spec.get("filterSubjects", [])), seconds(spec["ackWait"]), spec["maxAckPending"], spec["maxDeliver"], spec["ackPolicy"], spec["deliverPolicy"], spec["streamName"])
        should = (sorted(durables[name]), ack_wait, max_ack_pending, -1, "all" if name == facts.AUDITOR else "explicit", "all", "CHECKOUT")
        if is_now != should:
            yield f"durable {name}: {is_now}, and should be {should}"
