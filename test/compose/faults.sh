#!/usr/bin/env bash
# One fault: faults.sh NAME, or the one after the last: faults.sh next FILE (which says how many there were). It ends when the platform is whole
# again; exit code 1 when it is not.
set -euo pipefail
. "$(dirname "$0")/lib.sh"
instances="order-service payment-service stock-service"
kinds=(kill-service cut-service kill-primary kill-nats cut-replica crash-service cut-primary cut-nats kill-sentinel kill-gateway restart-service kill-replica)

said=$1
if [ "$said" = next ]; then
  number=$(cat "$2" 2>/dev/null || echo 0)
  said=${kinds[number % ${#kinds[@]}]}
  echo $((number + 1)) >"$2"
fi
service=$(shuf -n 1 -e $instances)
group=$(shuf -n 1 -e order payment stock)
began=$SECONDS
# cut CONTAINER NETWORK COMMAND…: no network for as long as the command takes; then as compose had connected it, under the same name and address.
cut() {
  local container=$1 network=${project}_$2 alias address outcome=0
  alias=$(docker inspect -f '{{index .Config.Labels "com.docker.compose.service"}}' "$container")
  address=$(docker inspect -f "{{with index .NetworkSettings.Networks \"$network\"}}{{with .IPAMConfig}}{{.IPv4Address}}{{end}}{{end}}" "$container")
  shift 2
  docker network disconnect "$network" "$container"
  "$@" || outcome=$?
  docker network connect --alias "$alias" ${address:+--ip "$address"} "$network" "$container"
  return $outcome
}
case $said in
kill-service | crash-service | restart-service | cut-service)
  what=$service
  it=$(one_of "$service")
  case $said in
  kill-service) docker kill "$it" >/dev/null && sleep 2 && docker start "$it" >/dev/null ;;
  # From within, as it were: docker's own restart policy starts it again.
  crash-service) kill -9 "$(docker inspect -f '{{.State.Pid}}' "$it")" ;;
  restart-service) docker restart -t 20 "$it" >/dev/null ;;
  # Of what it is connected to, one network is lost: its bus, its database, or the gateway.
  cut-service)
    network=$(shuf -n 1 -e bus edge "${service%-service}-data")
    what="$service from $network"
    cut "$it" "$network" sleep 4
    ;;
  esac
  ;;
kill-primary | cut-primary)
  number=$(primary_of "$group")
  what=redis-$group-$number
  it=$(containers_of "$what")
  case $said in
  kill-primary)
    docker kill "$it" >/dev/null
    until_true 30 "another primary of $group" moved "$group" "$number"
    docker start "$it" >/dev/null
    ;;
  cut-primary) cut "$it" "$group-data" until_true 30 "another primary of $group" moved "$group" "$number" ;;
  esac
  ;;
kill-replica | cut-replica)
  what=redis-$group-$(shuf -e 1 2 3 | grep -vx "$(primary_of "$group")" | head -n 1)
  it=$(containers_of "$what")
  case $said in
  kill-replica) docker kill "$it" >/dev/null && sleep 2 && docker start "$it" >/dev/null ;;
  cut-replica) cut "$it" "$group-data" sleep 4 ;;
  esac
  ;;
kill-nats | cut-nats)
  what=$(leader)
  it=$(containers_of "$what")
  case $said in
  kill-nats)
    docker kill "$it" >/dev/null
    until_true 30 "another leader" led_by_another "$what"
    docker start "$it" >/dev/null
    ;;
  cut-nats) cut "$it" bus until_true 30 "another leader" led_by_another "$what" ;;
  esac
  ;;
kill-sentinel)
  what=sentinel-$(shuf -n 1 -e 1 2 3)
  it=$(containers_of "$what")
  docker kill "$it" >/dev/null && sleep 3 && docker start "$it" >/dev/null
  ;;
kill-gateway)
  what=gateway
  it=$(containers_of gateway)
  docker kill "$it" >/dev/null && docker start "$it" >/dev/null
  ;;
*)
  echo "faults: there is no $said, but ${kinds[*]}" >&2
  exit 64
  ;;
esac
until_true 60 "all is whole after $said of $what" whole
echo "         $said: $what, whole again after $((SECONDS - began)) s"
