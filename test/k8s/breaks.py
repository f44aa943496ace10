"""What is broken by hand to see that a rule notices: rule, overlay, what, and the change of the rendered objects."""

from model import template


def thing(things, kind, name):
    return next(t for t in things if t["kind"] == kind and t["metadata"]["name"] == name)


def pod(things, name, kind="Deployment"):
    return template(thing(things, kind, name))["spec"]


def box(things, name, kind="Deployment"):
    return pod(things, name, kind)["containers"][0]


def without(kind, name):
    return lambda things: [t for t in things if (t["kind"], t["metadata"]["name"]) != (kind, name)]


def variable(things, name, key, value, kind="Deployment"):
    env = box(things, name, kind)["env"]
    env[:] = [v for v in env if v["name"] != key] + [{"name": key, "value": value}]


def words(things, name, probe, old, new):
    """Other words in the command of a database's probe."""
    command = box(things, name, "StatefulSet")[probe]["exec"]["command"]
    assert old in command[2], command
    command[2] = command[2].replace(old, new)


def administrator(things):
    variable(things, ORDER, "SENTINEL_PASSWORD_FILE", "/run/secrets/sentinel")
    items = pod(things, ORDER)["volumes"][0]["secret"]["items"]
    items[:] = [i for i in items if i["key"] != "sentinel-service"] + [{"key": "sentinel", "path": "sentinel"}]


def policy(things, name):
    return thing(things, "NetworkPolicy", name)["spec"]


ORDER = "order-service"
BREAKS = [
    ("schema", "dev", "a misspelt field", lambda t: box(t, ORDER).update(imagePullPolciy="Always")),
    ("schema", "dev", "a number as text", lambda t: thing(t, "Service", "nats")["spec"]["ports"][0].update(port="4222")),
    ("schema", "prod", "an unknown field of KEDA", lambda t: thing(t, "ScaledObject", ORDER)["spec"].update(minReplicas=2)),
    ("schema", "prod", "an HTTPRoute with a wrong match", lambda t: thing(t, "HTTPRoute", "checkout")["spec"]["rules"][0]["matches"][0]["path"].update(type="Prefix")),
    ("schema", "prod-nack", "a stream of an unknown retention", lambda t: thing(t, "Stream", "checkout")["spec"].update(retention="Limits")),
    ("probes", "dev", "no liveness", lambda t: box(t, ORDER).pop("livenessProbe") and None),
    ("probes", "dev", "a path that nobody answers", lambda t: box(t, "gateway")["livenessProbe"]["httpGet"].update(path="/health")),
    ("probes", "dev", "liveness that asks for others", lambda t: box(t, ORDER)["livenessProbe"]["httpGet"].update(path="/health/ready")),
    ("probes", "dev", "a port at which no database listens", lambda t: words(t, "redis-order", "livenessProbe", "redis-cli", "redis-cli -p 6380")),
    ("probes", "prod", "a port at which no sentinel listens", lambda t: words(t, "sentinel", "startupProbe", "26379", "26380")),
    ("probes", "dev", "a program that the image has not", lambda t: words(t, "redis-stock", "readinessProbe", "redis-cli", "valkey-cli")),
    ("probes", "dev", "a shell where there is none", lambda t: box(t, ORDER).update(livenessProbe={"exec": {"command": ["sh", "-c", "true"]}})),
    ("probes", "dev", "a database that is restarted for its primary", lambda t: words(t, "redis-order", "livenessProbe", "none ping", "none role")),
    ("limits", "dev", "no limit of memory", lambda t: box(t, "nats", "StatefulSet")["resources"]["limits"].pop("memory") and None),
    ("limits", "dev", "more asked for than allowed", lambda t: box(t, ORDER)["resources"]["requests"].update(memory="1Gi")),
    ("limits", "dev", "processors without a worker", lambda t: box(t, "gateway")["resources"]["limits"].update(cpu="4")),
    ("restricted", "dev", "a writable root", lambda t: box(t, ORDER)["securityContext"].update(readOnlyRootFilesystem=False)),
    ("restricted", "dev", "root", lambda t: pod(t, ORDER)["securityContext"].pop("runAsNonRoot") and None),
    ("restricted", "dev", "a namespace that enforces nothing", lambda t: thing(t, "Namespace", "checkout")["metadata"].update(labels={})),
    ("tokens", "dev", "a token", lambda t: pod(t, ORDER).update(automountServiceAccountToken=True)),
    ("tokens", "dev", "a shared account", lambda t: pod(t, ORDER).update(serviceAccountName="stock-service")),
    ("endings", "dev", "a short grace", lambda t: pod(t, ORDER).update(terminationGracePeriodSeconds=20)),
    ("endings", "dev", "a longer drain", lambda t: variable(t, ORDER, "DRAIN_LIMIT_MS", "60000")),
    ("endings", "dev", "an instance that goes while it is remembered", lambda t: box(t, ORDER)["lifecycle"]["preStop"]["sleep"].update(seconds=8)),
    ("endings", "dev", "a gateway that goes at once", lambda t: box(t, "gateway").pop("lifecycle") and None),
    ("variables", "dev", "a variable that nobody reads", lambda t: variable(t, ORDER, "REDIS_URI", "redis://redis-order:6379")),
    ("variables", "dev", "a setting of another service", lambda t: variable(t, "stock-service", "SAGA_LIMIT_MS", "1")),
    ("variables", "dev", "what the audit does not read", lambda t: variable(t, "audit", "STREAM_REPLICAS", "1", "CronJob")),
    ("variables", "prod", "a script without what it needs", lambda t: box(t, "redis-stock", "StatefulSet")["env"].clear()),
    ("ports", "dev", "a port at which nobody listens", lambda t: box(t, ORDER)["ports"][0].update(containerPort=8080)),
    ("ports", "dev", "a server that listens elsewhere", lambda t: variable(t, ORDER, "LISTEN", "0.0.0.0:8009")),
    ("services", "dev", "a Service of nobody", lambda t: thing(t, "Service", ORDER)["spec"]["selector"].update({"app.kubernetes.io/name": "orders"})),
    ("services", "prod", "a Service of a node that is not there", lambda t: thing(t, "StatefulSet", "redis-order")["spec"].update(replicas=2)),
    ("services", "prod", "a route to nowhere", lambda t: thing(t, "HTTPRoute", "checkout")["spec"]["rules"][0]["backendRefs"][0].update(port=80)),
    ("files", "dev", "a password that is not mounted", lambda t: variable(t, ORDER, "NATS_PASSWORD_FILE", "/run/secrets/nats-stock")),
    ("files", "dev", "all passwords", lambda t: pod(t, ORDER)["volumes"][0]["secret"].pop("items") and None),
    ("files", "prod", "sentinels' password that the audit cannot read", lambda t: pod(t, "audit", "CronJob")["volumes"][0]["secret"]["items"].pop() and None),
    ("files", "prod", "a service that is the sentinels' administrator", administrator),
    ("files", "dev", "a key that is not there", lambda t: thing(t, "Secret", "passwords")["data"].pop("nats-order") and None),
    ("names", "dev", "a name of nobody", lambda t: variable(t, ORDER, "REDIS_URL", "redis://redis-orders:6379")),
    ("names", "prod", "a fourth sentinel", lambda t: variable(t, "redis-order", "SENTINELS", "sentinel-0 sentinel-3", "StatefulSet")),
    ("flows", "dev", "no default deny", lambda t: [x for x in t if x["metadata"]["name"] not in ("default-deny", "names")]),
    ("flows", "dev", "a needed flow that is not allowed", lambda t: policy(t, "redis-order")["ingress"].clear()),
    ("flows", "dev", "a flow that nobody needs", lambda t: policy(t, "order")["egress"][1]["ports"].append({"port": 26379})),
    ("flows", "dev", "order reaches the database of stock", lambda t: variable(t, ORDER, "REDIS_URL", "redis://redis-stock:6379")),
    ("flows", "dev", "an ingress from everywhere", lambda t: policy(t, "redis-order")["ingress"][0].pop("from") and None),
    ("flows", "dev", "names by TCP alone", lambda t: policy(t, "names")["egress"][0]["ports"].remove({"port": 53, "protocol": "UDP"})),
    ("flows", "dev", "no cache of names on the node", lambda t: policy(t, "names")["egress"][0]["to"].pop() and None),
    ("flows", "dev", "any address for names", lambda t: policy(t, "names")["egress"][0]["to"].append({"ipBlock": {"cidr": "0.0.0.0/0"}})),
    ("flows", "dev", "a flow by another protocol", lambda t: policy(t, "redis-order")["ingress"][0]["ports"][0].update(protocol="UDP")),
    ("flows", "dev", "a range of ports", lambda t: policy(t, "redis-order")["ingress"][0]["ports"][0].update(endPort=6380)),
    ("flows", "dev", "an audit that reaches no database", without("NetworkPolicy", "audit")),
    ("flows", "prod", "an audit that reaches no sentinel", without("NetworkPolicy", "audit-sentinel")),
    ("flows", "prod", "sentinels that are not reached", without("NetworkPolicy", "sentinel")),
    ("disruption", "dev", "no budget", without("PodDisruptionBudget", "nats")),
    ("disruption", "dev", "not spread", lambda t: pod(t, ORDER).pop("topologySpreadConstraints") and None),
    ("disruption", "prod", "a database that may share a node", lambda t: pod(t, "nats", "StatefulSet")["topologySpreadConstraints"][0].update(whenUnsatisfiable="ScheduleAnyway")),
    ("scaling", "prod", "two that scale one", lambda t: thing(t, "HorizontalPodAutoscaler", "gateway")["spec"]["scaleTargetRef"].update(name=ORDER)),
    ("scaling", "prod", "replicas beside a scaler", lambda t: thing(t, "Deployment", ORDER)["spec"].update(replicas=2)),
    ("scaling", "prod", "the durable of another", lambda t: thing(t, "ScaledObject", ORDER)["spec"]["triggers"][1]["metadata"].update(consumer="stock")),
    ("copies", "prod", "more copies than servers", lambda t: thing(t, "StatefulSet", "nats")["spec"].update(replicas=1)),
    ("asked", "dev", "an audit that runs by itself", lambda t: thing(t, "CronJob", "audit")["spec"].update(suspend=False)),
    ("asked", "dev", "an audit that is tried again", lambda t: thing(t, "CronJob", "audit")["spec"]["jobTemplate"]["spec"].update(backoffLimit=6)),
    ("restore", "dev", "files of somebody else", lambda t: pod(t, "redis-stock", "StatefulSet")["securityContext"].update(runAsUser=1000)),
    ("restore", "prod", "a volume of another name", lambda t: thing(t, "StatefulSet", "redis-order")["spec"]["volumeClaimTemplates"][0]["metadata"].update(name="files")),
    ("restore", "prod", "a newer database", lambda t: box(t, "redis-payment", "StatefulSet").update(image="redis:8.2-bookworm")),
    ("images", "dev", "another server", lambda t: box(t, "nats", "StatefulSet").update(image="nats:latest")),
    ("images", "dev", "a service that stops for its upgrade", lambda t: thing(t, "Deployment", ORDER)["spec"].update(strategy={"type": "Recreate"})),
    ("images", "prod", "an instance too few meanwhile", lambda t: thing(t, "Deployment", ORDER)["spec"]["strategy"]["rollingUpdate"].update(maxUnavailable=1)),
    ("streams", "prod-nack", "a subject too few", lambda t: thing(t, "Stream", "checkout")["spec"]["subjects"].pop() and None),
    ("streams", "prod-nack", "a stream that forgets its oldest dead letters", lambda t: thing(t, "Stream", "dead-letters")["spec"].update(discard="old")),
    ("streams", "prod-nack", "a durable of another age", lambda t: thing(t, "Consumer", "order")["spec"].update(ackWait="30s")),
    ("streams", "prod", "nobody makes streams", without("Deployment", "topology")),
]
