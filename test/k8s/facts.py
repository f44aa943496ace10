"""What the programs themselves say: their settings, ports and paths, read from where each is written down."""

import functools
import re

from model import text

SERVICES = ("order", "payment", "stock")
# The durable that hears everything: nats/src/topology.rs.
AUDITOR = "auditor"
# The Go runtime's own.
RUNTIME = {"GOMEMLIMIT"}
# Commands of `checkout`, and where each says which variables it reads.
COMMANDS = {"checkout topology": "checkout/src/topology.rs", "checkout audit": "checkout/src/audit/place.rs"}


@functools.cache
def settings(binary):
    """Setting → default, as `order --help` prints them (it prints these tables)."""
    if binary in COMMANDS:
        source = text(COMMANDS[binary])
        return {name: None for name in re.findall(r"\b[A-Z]+(?:_[A-Z]+)+\b", "\n".join(re.findall(r'^ *///.*|env = "\w+"', source, re.M)))}
    found = {}
    for path in ("common/src/settings.rs", f"{binary}/src/config.rs"):
        try:
            source = text(path)
        except FileNotFoundError:
            continue
        for block in re.findall(r"Setting \{(.*?)\}", source, re.S):
            name = re.search(r'name: "(\w+)"', block)
            if name:
                default = re.search(r'default: "([^"]*)"', block)
                found[name[1]] = default[1] if default else None
                found.update({other: "" for other in re.findall(r"\b[A-Z_]+_FILE\b", block)})
    assert "FAREWELL_MS" in found and "NATS_PASSWORD_FILE" in found, "the settings are written in another way"
    return found


def script_variables(path):
    """The variables that a script takes from its environment: those that it uses (or needs) and does not only set itself."""
    source = re.sub(r"^\s*#.*$", "", text(path), flags=re.M)
    used = set(re.findall(r"\$\{?([A-Z][A-Z_]*)\b", source))
    optional = set(re.findall(r"\$\{([A-Z][A-Z_]*):-", source))
    return used - {"REDISCLI_AUTH"}, optional


SCRIPTS = {"/scripts/redis.sh": "compose/redis.sh", "/scripts/sentinel.sh": "compose/sentinel.sh", "/etc/nats/nats.sh": "compose/nats.sh", "/script/gateway.sh": "k8s/base/gateway/gateway.sh"}


@functools.cache
def program(image, command, arguments):
    """Which program a container runs: a binary of ours (of `checkout` which command), one of the scripts, or an image as it is."""
    ours = re.match(r"checkout/(\w+):", image)
    if ours:
        return " ".join([ours[1], *arguments[:1]]) if ours[1] == "checkout" else ours[1]
    for path in SCRIPTS:
        if path in command:
            return path
    return image.split(":")[0]


def program_of(container):
    return program(container["image"], tuple(container.get("command", ())), tuple(container.get("args", ())))


def listens(container, environment):
    """The ports at which a container's program listens."""
    name = program_of(container)
    if name in SERVICES:
        return {int(environment["LISTEN"].rsplit(":", 1)[1])} if environment.get("LISTEN") else set()
    if name == "/scripts/redis.sh":
        return {int(re.search(r"^port (\d+)", text("compose/redis.sh"), re.M)[1])}
    if name == "/scripts/sentinel.sh":
        return {int(re.search(r'"port (\d+)"', text("compose/sentinel.sh"))[1])}
    if name == "/etc/nats/nats.sh":
        both = text("nats/nats.conf") + text("compose/cluster.conf")
        return {int(port) for port in re.findall(r"^\s*(?:listen|http): [\d.]+:(\d+)", both, re.M)}
    if name == "/script/gateway.sh":
        return {int(port) for port in re.findall(r"^\s*listen (\d+)", text("compose/nginx.conf"), re.M)}
    if name == "natsio/prometheus-nats-exporter":
        return {int(re.search(r"nats-exporter:(\d+)", text("compose/prometheus.yml"))[1])}
    return set()


def paths(container):
    """The paths that a container's program answers to a probe."""
    name = program_of(container)
    if name in SERVICES:
        return set(re.findall(r'\.route\("(/health/\w+)"', text("common/src/http.rs")))
    if name == "/script/gateway.sh":
        return set(re.findall(r"location = (/health/\w+)", text("compose/nginx.conf")))
    # nats-server's own, as its documentation has them.
    return {"/healthz", "/healthz?js-server-only=true", "/healthz?js-enabled-only=true"} if name == "/etc/nats/nats.sh" else set()


# What a probe may run in an image. Those of ours have no shell.
PROGRAMS = {"redis": {"sh", "redis-cli", "grep"}}


def programs(container):
    return PROGRAMS.get(container["image"].split(":")[0], set())


def workers():
    """The processes of nginx that answer."""
    return int(re.search(r"^worker_processes (\d+);", text("compose/nginx.conf"), re.M)[1])


def drain_seconds(name, container):
    """How long a program may take to end."""
    if name in SERVICES:
        defaults, own = settings(name), {v["name"]: v.get("value") for v in container["env"]}
        return sum(int(own.get(key) or defaults[key]) for key in ("FAREWELL_MS", "DRAIN_LIMIT_MS")) / 1000
    if name == "/script/gateway.sh":
        return int(re.search(r"proxy_read_timeout (\d+)s", text("compose/nginx.conf"))[1])
    if name == "/etc/nats/nats.sh":
        return sum(int(found) for found in re.findall(r'^lame_duck_\w+: "(\d+)s"', text("nats/nats.conf"), re.M))
    return 0


def compose_images():
    return set(re.findall(r"image: (\S+)", text("compose.yaml")))


def topology():
    """Streams and durables of nats/src/topology.rs and nats/src/ensure.rs, as NACK's resources would say them."""
    source = text("nats/src/topology.rs")
    kinds = dict(re.findall(r'^ +([A-Z]\w+) = "([a-z]+\.[a-z]+)"', text("common/src/event.rs"), re.M))
    constants = {name: value for name, value in re.findall(r'const (\w+): &str = "([^"]+)";', source + text("common/src/event.rs"))}
    channels = []
    for subject, _, reacts in re.findall(r"channel\(([\w:.()]+?(?:\(\))?), Service::(\w+), &\[([^\]]*)\]\)", source):
        kind = re.match(r"Kind::(\w+)\.subject\(\)", subject)
        channels.append((kinds[kind[1]] if kind else constants[subject], [r.split("::")[1].lower() for r in reacts.split(",") if r.strip()]))
    defaults = {name: eval(re.sub(r"Duration::from_secs\((.*)\)", r"\1", value), {"DAY": 86400})
                for name, value in re.findall(r"^            (\w+): ([^,]*\d[^,]*|DAY),$", source, re.M)}
    refuses = re.findall(r"^ +(\w+) => DiscardPolicy::New", text("nats/src/ensure.rs"), re.M)
    advisories = re.findall(r'"(\$JS\.EVENT\.ADVISORY[^"]+)"', source)
    streams = {
        "CHECKOUT": ([subject for subject, _ in channels], defaults["max_bytes"], defaults["max_age"]),
        "DEAD_LETTERS": ([constants["DEAD_LETTER_SUBJECTS"]], defaults["dead_letter_max_bytes"], defaults["dead_letter_max_age"]),
        "DEAD_LETTERS_LOG": ([constants["REDRIVEN_SUBJECT"], constants["DROPPED_SUBJECT"]], defaults["dead_log_max_bytes"], defaults["dead_log_max_age"]),
        "ADVISORIES": (advisories, defaults["advisories_max_bytes"], defaults["advisories_max_age"]),
    }
    durables = {name: [subject for subject, reacts in channels if name in reacts] for name in SERVICES}
    durables[AUDITOR] = []
    discards = {name: "new" if name in refuses else "old" for name in streams}
    return streams, discards, durables, defaults["ack_wait"], defaults["max_ack_pending"]
