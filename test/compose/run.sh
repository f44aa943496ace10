#!/usr/bin/env bash
# The platform of compose.yaml in real containers, scaled: it comes up, keeps its contract, is hurt under load, agrees with itself, and goes away
# without a trace. Its project, networks and port are its own, so that several may run beside each other. Exit code 0: all held, or there is no Docker here and
# nothing was tried, which the last line says.
#
# CHAOS_MINUTES   how long it is hurt [2]
# SEED            what load is drawn from [drawn]
# CHECKOUT_LTO    as in compose.yaml, but [off]
# IMAGES          version of images of ours that are there already [they are built]
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
root=$(cd "$here/../.." && pwd)
cd "$root"
say() { echo "test-compose: $*"; }
skip() { say "not run: $*"; exit 0; }

images="debian:bookworm-slim rust:1.95-bookworm gcr.io/distroless/cc-debian12 redis:7.2-bookworm nginx:1.27-bookworm nats:2.15-alpine"
work=$(mktemp -d)
stand_ins=$root/../shared/offline-images/build.sh
if [ -x "$stand_ins" ]; then
  # Another apt-get may be at work.
  echo 'DPkg::Lock::Timeout "300";' >"$work/apt.conf"
  # shellcheck disable=SC2086
  APT_CONFIG=$work/apt.conf "$stand_ins" $images || { say "FAILED: the stand-ins for base images could not be built"; exit 1; }
fi
docker info >/dev/null 2>&1 || skip "there is no Docker daemon, and none could be started"
docker compose version >/dev/null 2>&1 || skip "there is no docker compose"

# A network and a port that nobody has.
taken=$(docker network ls -q | xargs -r docker network inspect -f '{{range .IPAM.Config}}{{.Subnet}} {{end}}'; ip -4 route 2>/dev/null || true)
for ((number = 100 + $$ % 100; ; number++)); do
  case $taken in *"10.$number."*) ;; *) break ;; esac
done
export CHECKOUT_NET=10.$number
export COMPOSE_PROJECT_NAME=checkout-test-$$ COMPOSE_FILE=compose.yaml:test/compose/override.yaml
export CHECKOUT_VERSION=${IMAGES:-test-$$} CHECKOUT_LTO=${CHECKOUT_LTO:-off}
port=$(python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')
export GATEWAY_LISTEN=127.0.0.1:$port
url=http://$GATEWAY_LISTEN
. "$here/lib.sh"

left() {
  local label="--filter=label=com.docker.compose.project=$project"
  { docker ps -aq "$label"; docker network ls -q "$label"; docker volume ls -q "$label"; } | wc -l
}
end() {
  local code=$?
  trap - EXIT INT TERM
  if [ $code != 0 ]; then
    say "FAILED; the end of what the containers said is in $work"
    docker compose --profile '*' ps -a >"$work/containers" 2>&1 || true
    docker compose --profile '*' logs --no-color --tail 2000 >"$work/logs" 2>&1 || true
    tail -n 60 "$work/containers"
    echo "$(missing)"
  fi
  say "taking it down"
  docker compose --profile '*' down -v --remove-orphans --timeout 20 >"$work/down" 2>&1 || { cat "$work/down"; code=1; }
  [ "$(left)" = 0 ] || { say "down -v left something"; code=1; }
  [ -n "${IMAGES:-}" ] || for binary in order payment stock checkout; do docker rmi "checkout/$binary:$CHECKOUT_VERSION" >/dev/null 2>&1 || true; done
  for service in order payment stock; do docker rmi "checkout/$service:$CHECKOUT_VERSION-next" >/dev/null 2>&1 || true; done
  [ $code != 0 ] || rm -rf "$work"
  [ $code != 0 ] || say "all held, and nothing is left"
  exit $code
}
trap end EXIT
trap 'exit 130' INT TERM

say "project $project, $url"
# tests FILE WORDS…: with what `make test` has compiled, which is why it is the whole workspace.
tests() { cargo test --quiet --workspace --test "$@"; }
cargo build --quiet --workspace --bins
cargo test --quiet --workspace --no-run --test contract --test concurrency --test containers
say "what nginx tells of instances that die"
"$here/nginx.py" nginx:1.27-bookworm
began=$SECONDS build=
if [ -z "${IMAGES:-}" ]; then
  build=--build
  docker compose build >"$work/build" 2>&1 || { tail -n 40 "$work/build"; exit 1; }
  say "images built in $((SECONDS - began)) s"
fi
docker image ls --format '{{.Repository}} {{.Size}} {{.Tag}}' | sed -n "s/^\(checkout.*\) $CHECKOUT_VERSION\$/test-compose:   \1/p"

scaled="--scale order-service=4 --scale stock-service=4 --scale payment-service=4"
say "docker compose up $scaled $build -d"
began=$SECONDS
# shellcheck disable=SC2086
docker compose up $scaled $build -d >"$work/up" 2>&1 || { tail -n 40 "$work/up"; exit 1; }
until_true 60 "the gateway takes a user" curl -fsS -o "$work/user" -X POST "$url/payment/create_user"
say "ready after $((SECONDS - began)) s: $(docker ps -q --filter "label=com.docker.compose.project=$project" | wc -l) containers"
until_true 60 "all is whole" whole
docker stats --no-stream --format '{{.Name}} {{.MemUsage}}' | grep "^$project" | "$here/memory.py"
published=$(docker ps --filter "label=com.docker.compose.project=$project" --format '{{.Ports}}' | grep -o '[^ ,]*->[^ ,]*' | paste -sd ' ')
[ "$published" = "$GATEWAY_LISTEN->8000/tcp" ] || { say "published is more than the gateway: $published"; exit 1; }

# For the tests: a folder as that of a platform on this machine, which says where the databases and NATS are.
platform=$work/platform
mkdir -p "$platform/run"
cp -r compose/secrets "$platform/secrets"
chmod -R go= "$platform"
database() { echo "redis+sentinel://admin:$(cat compose/secrets/redis-admin)@$CHECKOUT_NET.$2.21:26379,$CHECKOUT_NET.$2.22:26379,$CHECKOUT_NET.$2.23:26379/redis-$1?sentinel_password=$(cat compose/secrets/sentinel)"; }
nats=$(for server in 1 2 3; do echo "nats://$(address_of "$(containers_of nats-$server)" bus):4222"; done | paste -sd ,)
cat >"$platform/run/platform.json" <<JSON
{"gateway": "$url", "nats": "$nats", "processes": [],
 "redis": {"order": "$(database order 1)", "payment": "$(database payment 2)", "stock": "$(database stock 3)"}}
JSON
export CHECKOUT_TEST_PLATFORM=$platform
say "the contract, 1,000 users for 100 pieces, and a gateway whose instances are gone"
tests contract -- --test-threads 1
tests concurrency of_a_thousand
tests containers -- --ignored --test-threads 1
until_true 60 "all is whole" whole

say "the auditor, and faults under load"
docker compose --profile observe up -d --no-deps auditor >"$work/auditor" 2>&1 || { cat "$work/auditor"; exit 1; }
target/debug/checkout chaos --url "$url" --minutes "${CHAOS_MINUTES:-2}" --pause 1 --data "$work/chaos" ${SEED:+--seed "$SEED"} \
  --fault-command "'$here/faults.sh' next '$work/faults'"
until_true 60 "all is whole" whole

# A build that is really another one, from this machine, in the place of the program in the image.
say "the next version takes the place of this one, container by container, under load"
make --silent next >"$work/next" 2>&1 || { tail -n 40 "$work/next"; exit 1; }
for service in order payment stock; do
  mkdir -p "$work/$service" && cp "target/debug/next/$service" "$work/$service/app"
  printf 'FROM checkout/%s:%s\nCOPY app /app\n' "$service" "$CHECKOUT_VERSION" >"$work/$service/Dockerfile"
  docker build --quiet --tag "checkout/$service:$CHECKOUT_VERSION-next" "$work/$service" >"$work/next" 2>&1 || { cat "$work/next"; exit 1; }
  rm -r "${work:?}/$service"
done
if docker run --rm "checkout/order:$CHECKOUT_VERSION-next" --help >"$work/next" 2>&1; then
  # It is one fault, for the end of which the load waits.
  target/debug/checkout chaos --url "$url" --minutes 0.2 --pause 1 --data "$work/roll" ${SEED:+--seed "$SEED"} \
    --fault-command "'$here/roll.sh' $CHECKOUT_VERSION-next"
  until_true 60 "all is whole" whole
elif grep -q "version .GLIBC_[0-9.]*' not found" "$work/next"; then
  say "not run: a program that was built on this machine does not start in the image, whose C library is older"
else
  say "the next version does not start: $(tail -n 5 "$work/next")"
  exit 1
fi

say "does it all agree?"
docker compose --profile tools run --rm audit
letters=$(docker compose --profile tools run --rm -e NATS_USER=observer audit dead list --nats nats://nats-1:4222,nats://nats-2:4222 --json)
[ -z "$letters" ] || [ "$letters" = "[]" ] || { say "dead letters: $letters"; exit 1; }
curl -fsS "http://$(address_of "$(containers_of auditor)" edge):9100/metrics" >"$work/metrics"
awk '/^auditor_findings_total/ { found += $NF } /^auditor_events_total/ { heard = $NF }
  END { print "test-compose: the auditor heard " heard + 0 " events, findings: " found + 0; exit !(heard > 0 && found == 0) }' "$work/metrics"
