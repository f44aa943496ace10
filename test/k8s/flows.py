"""The rules about who speaks to whom: what the programs are told, against what policies allow."""

import re

from model import NAMESPACE, environment, flags, hosts, template, text
from rules import rule

# The cluster's name server, and the cache on a node, by the address that it has unless told otherwise.
NAMES, CACHE = "dns", "169.254.20.10/32"
# Variables, and what a command is told by flags, that name others, and the port that they mean where none is written.
FLAGS = {"nats": 4222, "order": 6379, "payment": 6379, "stock": 6379}
PEERS = {"NATS_URL": 4222, "REDIS_URL": 6379, "NODES": 6379, "SENTINELS": 26379, "GROUPS_WATCHED": 6379, "NATS_NODES": 6222}


def needed(platform):
    """Who must reach whom, at which port by which protocol, from what the programs are told; and sentences for names behind which nobody is."""
    flows, wrong = set(), []

    def need(source, host, port):
        try:
            flows.update((source, target, at, "TCP") for target, at in platform.reached(host, port))
        except LookupError as error:
            wrong.append(f"{source}: {error}")

    for name, container in platform.containers():
        flows.update((name, server, 53, protocol) for server in (NAMES, CACHE) for protocol in ("UDP", "TCP"))
        replicated = name == "sentinel" or environment(container).get("SENTINELS")
        for variable, value in environment(container).items():
            # A database that stands alone speaks to nobody.
            if variable in PEERS and value and (variable != "NODES" or replicated):
                for host, port in hosts(value, PEERS[variable]):
                    need(name, host, port)
        told = {flag: value for flag, value in flags(container).items() if flag in FLAGS}
        for flag, value in told.items():
            for host, port in hosts(value, FLAGS[flag]):
                need(name, host, port)
        for url in (*told.values(), environment(container).get("REDIS_URL") or ""):
            if found := re.match(r"redis\+sentinel://.*/([\w-]+)$", url):
                # Whom the sentinels name: any node of the group.
                need(name, found[1], 6379)
        if name == "gateway":
            for host, port in re.findall(r"^\s*\w+ ([\w-]+-service):(\d+);", text("compose/nginx.conf"), re.M):
                need(name, host, int(port))
            flows.update(("*", name, port, "TCP") for port in platform.ports(name).values())
        if name == "sentinel":
            # They agree among themselves; a sentinel asks all nodes of the groups that it watches.
            need(name, "sentinel", 26379)
        told = template(platform.pods[name])["metadata"].get("annotations", {}).get("prometheus.io/port")
        if told:
            flows.add(("ns:monitoring", name, int(told), "TCP"))
    for scaled in platform.of("ScaledObject"):
        for trigger in scaled["spec"]["triggers"]:
            if "natsServerMonitoringEndpoint" in trigger["metadata"]:
                for host, port in hosts(trigger["metadata"]["natsServerMonitoringEndpoint"], 8222):
                    need("ns:keda", host.split(".")[0], port)
    for account in platform.of("Account"):
        for server in account["spec"]["servers"]:
            for host, port in hosts(server, 4222):
                need("ns:nack", host.split(".")[0], port)
    return flows, wrong


def told_policies(platform):
    """What policies allow: at the sender, at the receiver, and who is fenced in for each direction."""
    egress, ingress, fenced = set(), set(), {"Ingress": set(), "Egress": set()}

    def peers(entries):
        if not entries:
            return {"*"}
        found = set()
        for peer in entries:
            space = peer.get("namespaceSelector", {}).get("matchLabels", {}).get(NAMESPACE)
            if space == "kube-system" and peer.get("podSelector", {}).get("matchLabels") == {"k8s-app": "kube-dns"}:
                found.add(NAMES)
            elif peer == {"ipBlock": {"cidr": CACHE}}:
                found.add(CACHE)
            elif space:
                found.add(f"ns:{space}")
            elif "podSelector" in peer and "namespaceSelector" not in peer:
                found |= set(platform.selected(peer["podSelector"].get("matchLabels", {}))) or {f"nobody ({peer})"}
            else:
                found.add(f"anything ({peer})")
        return found

    def ends(flow):
        for port in flow.get("ports", [{}]):
            yield f"{port['port']}-{port['endPort']}" if "endPort" in port else port.get("port", "any"), port.get("protocol", "TCP" if port else "any")

    for policy in platform.of("NetworkPolicy"):
        spec = policy["spec"]
        own = platform.selected(spec["podSelector"].get("matchLabels", {})) or [f"nobody ({policy['metadata']['name']})"]
        for kind in spec["policyTypes"]:
            fenced[kind] |= set(own)
        for flow in spec.get("ingress", []):
            ingress |= {(peer, name, *end) for peer in peers(flow.get("from")) for name in own for end in ends(flow)}
        for flow in spec.get("egress", []):
            egress |= {(name, peer, *end) for peer in peers(flow.get("to")) for name in own for end in ends(flow)}
    return egress, ingress, fenced


@rule
def names(platform):
    """Behind each host and port that a program is told, somebody listens."""
    yield from needed(platform)[1]


@rule
def flows(platform):
    """Policies allow what is needed, at both ends, and nothing else; everybody is fenced in."""
    need, _ = needed(platform)
    egress, ingress, fenced = told_policies(platform)
    outside = ("*", "ns:")
    for what, allowed, wanted in (
        ("send", egress, {flow for flow in need if not flow[0].startswith(outside)}),
        ("receive", ingress, {flow for flow in need if flow[1] not in (NAMES, CACHE)}),
    ):
        for source, target, port, protocol in sorted(wanted - allowed, key=str):
            yield f"{source} → {target}:{port} by {protocol} is needed, and may not {what}"
        for source, target, port, protocol in sorted(allowed - wanted, key=str):
            yield f"{source} → {target}:{port} by {protocol} may {what}, and nobody needs it"
    for kind in fenced:
        for name in platform.pods.keys() - fenced[kind]:
            yield f"{name}: no policy of {kind}"
