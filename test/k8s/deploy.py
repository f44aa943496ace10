"""Runs k8s/deploy-cluster.sh where kubectl and helm are stand-ins, and looks at the passwords that it leaves: each is drawn once, and what is missing is added."""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import yaml

from model import ROOT, text

# Of kubectl it does what becomes of the Secret, which is a file; helm has nothing to do.
KUBECTL = """#!{python}
import os, sys, yaml
path, words = os.environ["HELD"], sys.argv[1:]
held = yaml.safe_load(open(path)) if os.path.exists(path) else None
verb = words[2] if words[2:] and words[0] == "--namespace" and "secret" in words else ""
def after(flag):
    return next(word.split("=", 1)[1] if "=" in word else words[i + 1] for i, word in enumerate(words) if word.split("=")[0] == flag)
if verb == "get":
    if held is None and "--ignore-not-found" not in words:
        sys.exit("NotFound")
    print(" ".join(held or {{}}), end=" " if held else "")
elif verb == "create":
    if held is not None:
        sys.exit("AlreadyExists")
    held = dict([after("--from-literal").split("=", 1)])
elif verb == "patch":
    held.update(yaml.safe_load(open(after("--patch-file")))["stringData"])
if verb in ("create", "patch"):
    yaml.safe_dump(held, open(path, "w"))
"""


def run(work):
    """One run, and the Secret after it."""
    env = {**os.environ, "PATH": f"{work}:{os.environ['PATH']}", "HELD": str(work / "held.yaml")}
    done = subprocess.run([ROOT / "k8s/deploy-cluster.sh"], env=env, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"test-k8s: deploy-cluster.sh: {done.stderr.strip()}")
    return yaml.safe_load((work / "held.yaml").read_text())


def findings():
    """A sentence for each thing that is wrong with the passwords."""
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        for name, source in (("kubectl", KUBECTL.format(python=sys.executable)), ("helm", "#!/bin/sh\n")):
            (work / name).write_text(source)
            (work / name).chmod(0o755)
        first = run(work)
        wanted = yaml.safe_load(text("compose/secrets/kustomization.yaml"))["secretGenerator"][0]["files"]
        if first.keys() != {*wanted, "nats-admin-name"} or len(set(first.values())) != len(first):
            yield f"at first it leaves {sorted(first)}, of {len(set(first.values()))} values"
        if run(work) != first:
            yield "a second run changes a password"
        older = {key: value for key, value in first.items() if key != "sentinel-service"}
        (work / "held.yaml").write_text(yaml.safe_dump(older))
        later = run(work)
        if later.keys() != first.keys() or older.items() - later.items():
            yield f"where one is missing, a run leaves {sorted(later)}, and changes {sorted(key for key in older if later.get(key) != older[key])}"
