"""Rendered manifests as the rules look at them: objects, pods, who reaches whom."""

import re
import subprocess
from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parents[2]
NAME = "app.kubernetes.io/name"
NAMESPACE = "kubernetes.io/metadata.name"


def render(overlay):
    """What `kubectl apply -k` would send."""
    done = subprocess.run(["kubectl", "kustomize", ROOT / "k8s/overlays" / overlay], capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"test-k8s: {overlay}: {done.stderr.strip()}")
    return [thing for thing in yaml.safe_load_all(done.stdout) if thing]


def text(path):
    return (ROOT / path).read_text()


def template(workload):
    """The template of a workload's pods."""
    spec = workload["spec"]["jobTemplate"]["spec"] if workload["kind"] == "CronJob" else workload["spec"]
    return spec["template"]


class Platform:
    """All objects of one overlay."""

    def __init__(self, overlay, things):
        self.overlay, self.things = overlay, things
        self.pods = {self.name_of(thing): thing for thing in things if thing["kind"] in ("Deployment", "StatefulSet", "CronJob")}
        self.services = {thing["metadata"]["name"]: thing for thing in self.of("Service")}

    @staticmethod
    def name_of(thing):
        """What a workload's pods are called in selectors."""
        return template(thing)["metadata"]["labels"][NAME]

    def of(self, kind):
        return [thing for thing in self.things if thing["kind"] == kind]

    def pod(self, name):
        return template(self.pods[name])["spec"]

    def containers(self):
        return [(name, container) for name in self.pods for container in self.pod(name)["containers"]]

    def labels(self, name):
        return template(self.pods[name])["metadata"]["labels"]

    def selected(self, selector):
        """The workloads that a selector of labels means; one pod of a StatefulSet is its workload."""
        wanted = dict(selector)
        one = wanted.pop("statefulset.kubernetes.io/pod-name", None)
        found = [name for name in self.pods if wanted.items() <= self.labels(name).items()]
        if one is not None:
            names = {f"{self.pods[name]['metadata']['name']}-{number}": name for name in found for number in range(self.pods[name]["spec"]["replicas"])}
            found = [names[one]] if one in names else []
        return found

    def ports(self, name):
        """Port number by name, of all containers of a pod."""
        return {port["name"]: port["containerPort"] for container in self.pod(name)["containers"] for port in container.get("ports", [])}

    def reached(self, host, port):
        """The workloads and their ports behind a host name and port, or why there are none."""
        first, *more = host.split(".")
        service = self.services.get(first)
        if service is None and more:
            # A pod of a StatefulSet, by the name that its headless Service gives it.
            service = self.services.get(more[0])
            owner, _, number = first.rpartition("-")
            of = [w for w in self.pods.values() if w["kind"] == "StatefulSet" and w["metadata"]["name"] == owner]
            if service is None or not of or of[0]["spec"]["serviceName"] != more[0] or int(number) >= of[0]["spec"]["replicas"]:
                raise LookupError(f"nothing is called {host}")
        if service is None:
            raise LookupError(f"nothing is called {host}")
        open_at = [p for p in service["spec"]["ports"] if p["port"] == port]
        headless = service["spec"].get("clusterIP") == "None"
        found = []
        for name in self.selected(service["spec"]["selector"]):
            ports = self.ports(name)
            if open_at:
                target = open_at[0].get("targetPort", port)
                found.append((name, ports.get(target, target)))
            elif headless and port in ports.values():
                found.append((name, port))
        if not found:
            raise LookupError(f"nobody listens at {host}:{port}")
        return found


def environment(container):
    return {variable["name"]: variable.get("value") for variable in container.get("env", [])}


def flags(container):
    """What it is told by `--name=value`."""
    return {name: value for name, _, value in (word.removeprefix("--").partition("=") for word in container.get("args", []) if word.startswith("--")) if value}


def hosts(value, port):
    """`host:port` of a URL list or of a list of hosts, where `port` is the one that is not written down."""
    value = re.sub(r"^[a-z+]+://", "", value.strip())
    for part in re.split(r"[,\s]+", value):
        part = re.sub(r"^.*://", "", part).split("/")[0].split("=")[-1]
        host, _, own = part.partition(":")
        if host:
            yield host, int(own or port)
