#!/bin/sh
# Replaces the containers of one service of compose.yaml by those of another version, one by one, while the others serve: a new one starts beside
# the old ones, and when it is healthy an old one drains and goes. What two versions at once ask of each other is in ARCHITECTURE.md ("Upgrading").
#
#   CHECKOUT_VERSION=0.2.0 compose/rollout.sh order-service [options of docker compose, such as -f FILE …]
set -eu
service=${1:?which service: order-service, payment-service or stock-service}
shift
old=$(docker compose "$@" ps --quiet "$service")
count=$(echo "$old" | grep -c .) || { echo "no container of $service runs" >&2; exit 1; }
for container in $old; do
  # Fails where the new one does not get healthy; the old ones go on then.
  docker compose "$@" up --detach --no-deps --no-recreate --wait --scale "$service=$((count + 1))" "$service"
  docker stop --time 30 "$container" >/dev/null
  docker rm "$container" >/dev/null
done
docker compose "$@" ps "$service"
