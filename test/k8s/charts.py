"""The values in k8s/helm against the charts' own defaults, key by key, and against what compose/ says of the same servers."""

import json
import re

import jsonschema
import yaml

from model import NAME, ROOT, text

CHARTS = {
    "nats": ["nats.yaml"],
    **{f"redis-{name}": ["valkey.yaml", f"redis-{name}.yaml"] for name in ("order", "payment", "stock")},
}


def merged(into, more):
    for key, value in more.items():
        into[key] = merged(into[key], value) if isinstance(into.get(key), dict) and isinstance(value, dict) else value
    return into


def values():
    """The values of each release, as Helm would put the files together."""
    found = {}
    for release, files in CHARTS.items():
        found[release] = {}
        for file in files:
            merged(found[release], yaml.safe_load(text(f"k8s/helm/{file}")))
    return found


def unknown(given, defaults, path=""):
    """Keys that the chart does not have, and values of another kind. A default of `{}`, `[]` or nothing takes what comes."""
    for key, value in given.items():
        here = f"{path}{key}"
        if key not in defaults:
            yield f"{here}: the chart has no such value"
        elif isinstance(defaults[key], dict) and defaults[key]:
            yield from unknown(value, defaults[key], f"{here}.") if isinstance(value, dict) else [f"{here}: a map is wanted"]
        elif isinstance(defaults[key], (bool, int, str)) and type(value) is not type(defaults[key]):
            yield f"{here}: {value!r}, and the default is {defaults[key]!r}"


def findings(given):
    """A sentence for each thing that is wrong with these values."""
    schema = json.loads((ROOT / "test/k8s/charts/valkey.schema.json").read_text())
    script, nats, keys = text("compose/redis.sh"), text("nats/nats.conf"), text("compose/secrets/kustomization.yaml")
    for release, own in given.items():
        chart = "nats" if release == "nats" else "valkey"
        defaults = yaml.safe_load(text(f"test/k8s/charts/{chart}.yaml"))
        yield from (f"{release}: {wrong}" for wrong in unknown(own, defaults))
        if (own.get("nameOverride"), own.get("fullnameOverride")) != (release, release):
            yield f"{release}: is not called so"
        for key in re.findall(r"(?:passwordKey'?: |'key': )'([\w-]+)'", str(own)):
            if not re.search(rf"[\[ ]{key}[,\]]", keys):
                yield f"{release}: there is no password {key}"
        if chart == "valkey":
            for error in jsonschema.Draft202012Validator(schema).iter_errors(merged(yaml.safe_load(text("test/k8s/charts/valkey.yaml")), own)):
                yield f"{release}: {'.'.join(map(str, error.path))}: {error.message[:200]}"
            service = release.removeprefix("redis-")
            allowed = re.search(r"^user \$SERVICE on >\$\(.*?\) (.*)$", script, re.M)[1]
            if own["auth"]["aclUsers"].get(service, {}).get("permissions") != allowed:
                yield f"{release}: {service} may do something else than in compose/redis.sh"
            for line in own["valkeyConfig"].strip().splitlines():
                if not line.startswith("maxmemory ") and not re.search(rf"^{re.escape(line)}$", script, re.M):
                    yield f"{release}: `{line}` is not what compose/redis.sh says"
        else:
            for key, value in own["config"]["merge"].items():
                said = re.search(rf'^{re.escape(key)}: "?([^"\n]+)"?$', nats, re.M)
                if key != "$include" and (not said or said[1] != str(value).strip("<> ")):
                    yield f"{release}: {key} is {value}, and not what nats/nats.conf says"
            for user in re.findall(r"\$(NATS_\w+_PASSWORD)", text("nats/users.conf")):
                if user not in own["container"]["env"]:
                    yield f"{release}: no {user}"
    drawn = re.search(r"for key in (.*?); do", text("k8s/deploy-cluster.sh"), re.S)[1].replace("\\", " ").split()
    if sorted(drawn) != sorted(re.search(r"files: \[(.*)\]", keys)[1].split(", ")):
        yield "k8s/deploy-cluster.sh draws other passwords than compose/secrets has"
    for chart, version in re.findall(r"(nats|valkey)_version=(\S+)", text("k8s/deploy-minikube.sh")):
        if f" {version}," not in text(f"test/k8s/charts/{chart}.yaml").splitlines()[0]:
            yield f"k8s/deploy-minikube.sh has another version of the chart {chart} than was checked"


def brought(given):
    """Stand-ins for the pods and Services that the charts bring with these values, for the rules about who speaks to whom."""

    def workload(kind, name, replicas, ports, env=()):
        container = {"name": name, "image": name, "env": list(env), "ports": [{"name": port, "containerPort": number} for port, number in ports.items()]}
        template = {"metadata": {"labels": {NAME: name}}, "spec": {"containers": [container]}}
        return {"apiVersion": "apps/v1", "kind": kind, "metadata": {"name": name}, "spec": {"serviceName": f"{name}-headless", "replicas": replicas, "template": template}}

    def service(name, behind, ports, **more):
        return {"apiVersion": "v1", "kind": "Service", "metadata": {"name": name}, "spec": {"selector": {NAME: behind}, "ports": [{"name": port, "port": number} for port, number in ports.items()], **more}}

    for release, own in given.items():
        name = own["nameOverride"]
        if release == "nats":
            whole = merged(yaml.safe_load(text("test/k8s/charts/nats.yaml")), own)["config"]
            servers = whole["cluster"]["replicas"] if whole["cluster"]["enabled"] else 1
            nodes = " ".join(f"{name}-{number}.{name}-headless" for number in range(servers)) if whole["cluster"]["enabled"] else ""
            ports = {part: whole[part]["port"] for part in ("nats", "cluster", "monitor") if whole[part].get("enabled", True)}
            yield workload("StatefulSet", name, servers, ports, [{"name": "NATS_NODES", "value": nodes}])
            yield service(name, name, {"nats": ports["nats"]})
            yield service(f"{name}-headless", name, ports, clusterIP="None")
        else:
            port = {"tcp": merged(yaml.safe_load(text("test/k8s/charts/valkey.yaml")), own)["service"]["port"]}
            yield workload("Deployment", name, 1, port)
            yield service(name, name, port)


# Rule, what, and the change of the values: with what the charts bring beside it, overlays/charts is not in order any more.
TOGETHER = [
    ("flows", "servers that do not reach each other", lambda v: v["nats"]["config"]["cluster"].update(enabled=True, replicas=3)),
    ("flows", "a database of another name", lambda v: v["redis-order"].update(nameOverride="valkey-order")),
    ("copies", "more servers than copies", lambda v: v["nats"]["config"]["cluster"].update(enabled=True, replicas=3)),
    ("names", "a database at another port", lambda v: v["redis-stock"].update(service={"port": 6380})),
]

BREAKS = [
    ("a key that the chart does not have", lambda v: v["nats"]["config"]["cluster"].update(replica=3)),
    ("a value of another kind", lambda v: v["nats"]["config"]["cluster"].update(replicas="three")),
    ("a limit that is not the server's", lambda v: v["nats"]["config"]["merge"].update(ping_max=9)),
    ("a user without password", lambda v: v["nats"]["container"]["env"].pop("NATS_ORDER_PASSWORD")),
    ("a password that is not there", lambda v: v["redis-order"]["auth"]["aclUsers"]["order"].update(passwordKey="redis-orders")),
    ("a service that may do more", lambda v: v["redis-stock"]["auth"]["aclUsers"]["stock"].update(permissions="~* +@all")),
    ("a strategy that is none", lambda v: v["redis-stock"].update(deploymentStrategy="Recreated")),
    ("a database that writes less", lambda v: v["redis-order"].update(valkeyConfig="appendfsync everysec")),
]
