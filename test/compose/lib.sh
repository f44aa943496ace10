# What run.sh and faults.sh share: how one looks into the project COMPOSE_PROJECT_NAME. To be sourced.
project=$COMPOSE_PROJECT_NAME
look=$(dirname "${BASH_SOURCE[0]}")/look.py

# Ids of the containers of one service of compose.yaml, also of those that do not run.
containers_of() {
  docker ps -aq --filter "label=com.docker.compose.project=$project" --filter "label=com.docker.compose.service=$1" \
    --filter "label=com.docker.compose.oneoff=False"
}
one_of() { containers_of "$1" | shuf -n 1; }
address_of() { docker inspect -f "{{(index .NetworkSettings.Networks \"${project}_$2\").IPAddress}}" "$1"; }
primary_of() { "$look" primary "$1"; }
leader() { "$look" leader "$@"; }
missing() { "$look" missing; }
led_by_another() { [ -n "$(leader "$1")" ]; }
moved() { local now; now=$(primary_of "$1"); [ -n "$now" ] && [ "$now" != "$2" ]; }
whole() { local said; said=$(missing) && [ -z "$said" ]; }
# until_true SECONDS WHAT COMMAND…
until_true() {
  local end=$((SECONDS + $1)) what=$2
  shift 2
  until "$@"; do
    [ $SECONDS -lt $end ] || { echo "test-compose: it did not come to this: $what; $(missing)" >&2; return 1; }
    sleep 0.3
  done
}
