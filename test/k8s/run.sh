#!/usr/bin/env bash
# Checks the manifests in k8s/ without a cluster. What it needs from PyPI it gets once, into .tools/k8s; rendering is kubectl's.
set -euo pipefail
cd "$(dirname "$0")/../.."
command -v kubectl >/dev/null || { echo "test-k8s: kubectl is missing: it renders the overlays" >&2; exit 1; }
venv=.tools/k8s
if ! cmp -s test/k8s/requirements.txt "$venv/installed"; then
  rm -rf "$venv"
  python3 -m venv "$venv"
  "$venv/bin/pip" install --disable-pip-version-check --quiet --requirement test/k8s/requirements.txt
  cp test/k8s/requirements.txt "$venv/installed"
fi
PYTHONDONTWRITEBYTECODE=1 exec "$venv/bin/python" test/k8s/check.py
