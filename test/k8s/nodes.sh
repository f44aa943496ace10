#!/usr/bin/env bash
# One group of databases and its sentinels as Kubernetes starts them: all at once, known by names, by addresses that stay. In a network of their own, with
# the scripts that the pods run. First start; the primary is killed, and comes back; then, three times, one that was just chosen loses its disk. What was written stays.
set -euo pipefail
root=$(cd "$(dirname "$0")/../.." && pwd)
if [ "${1:-}" != inside ]; then
  for program in redis-server redis-cli ip unshare getent; do
    command -v "$program" >/dev/null || { echo "nodes: not run, there is no $program"; exit 0; }
  done
  unshare --map-root-user --mount --net true 2>/dev/null || { echo "nodes: not run, this machine gives no namespaces"; exit 0; }
  exec unshare --map-root-user --mount --net --pid --fork --kill-child "$0" inside
fi

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
ip link set lo up
for number in 0 1 2; do
  ip address add 10.99.1.1$number/32 dev lo
  ip address add 10.99.1.2$number/32 dev lo
done
{
  echo 127.0.0.1 localhost
  for number in 0 1 2; do printf '10.99.1.1%s redis-order-%s\n10.99.1.2%s sentinel-%s\n' $number $number $number $number; done
} >"$work/hosts"
mount --bind "$work/hosts" /etc/hosts
secrets=$root/compose/secrets

# start SCRIPT ADDRESS FOLDER VARIABLE=VALUE…: a script that binds, and asks its own server, at one address instead of at all. Its process id is in $started.
start() {
  local script=$1 address=$2 folder=$work/$3
  shift 3
  mkdir -p "$folder"
  sed -e "s#/data#$folder#g; s#/run/secrets#$secrets#g; s#bind 0.0.0.0#bind $address#; s#redis-cli --user admin#redis-cli -h $address --user admin#" \
    "$root/compose/$script" >"$folder.sh"
  env "$@" sh "$folder.sh" >>"$folder.log" 2>&1 &
  started=$!
  disown
}
node() {
  start redis.sh "10.99.1.1$1" "redis-$1" SERVICE=order OWN="redis-order-$1" NODES="redis-order-0 redis-order-1 redis-order-2" SENTINELS="sentinel-0 sentinel-1 sentinel-2"
  nodes[$1]=$started
}
sentinel() {
  start sentinel.sh "10.99.1.2$1" "sentinel-$1" OWN="sentinel-$1" GROUPS_WATCHED=redis-order=redis-order-0
  sentinels[$1]=$started
}
# What a sentinel says to a service.
told() { REDISCLI_AUTH=$(cat "$secrets/sentinel-service") redis-cli -h "10.99.1.2$1" -p 26379 --user service --raw "${@:2}" 2>/dev/null | paste -sd ' '; }
admin() { REDISCLI_AUTH=$(cat "$secrets/redis-admin") redis-cli -h "10.99.1.1$1" --user admin "${@:2}" 2>/dev/null; }
primary() { REDISCLI_AUTH=$(cat "$secrets/sentinel") redis-cli -h "10.99.1.2$1" -p 26379 --raw sentinel get-master-addr-by-name redis-order 2>/dev/null | sed -n '1s/10.99.1.1//p'; }
known() { REDISCLI_AUTH=$(cat "$secrets/sentinel") redis-cli -h "10.99.1.2$1" -p 26379 --raw sentinel master redis-order 2>/dev/null | paste -sd ' '; }
# What the readiness probe asks.
ready() { redis-cli -h "10.99.1.1$1" --no-auth-warning --user health --pass none role 2>/dev/null | grep -qx -e master -e connected; }
replica() { redis-cli -h "10.99.1.1$1" --no-auth-warning --user health --pass none role 2>/dev/null | grep -qx connected; }
# What two of them say: the one that led a failover names the node that it promoted until that has answered it, also where that is gone again.
agreed() { for each in 0 1 2; do primary $each; done | sort | uniq -d | head -n 1; }
moved() { local now; now=$(agreed); [ -n "$now" ] && [ "$now" != "$1" ]; }
all_ready() { ready 0 && ready 1 && ready 2; }
all_known() { for each in 0 1 2; do known $each | grep -q 'num-slaves 2 num-other-sentinels 2' || return 1; done; }
promotable() { for each in 0 1 2; do admin $each config get replica-priority | grep -qx 100 || return 1; done; }
# until_true WHAT COMMAND…: a minute at most.
until_true() {
  local what=$1 end=$((SECONDS + 60))
  shift
  until "$@"; do
    [ $SECONDS -lt $end ] || { echo "nodes: it did not come to: $what" >&2; tail -n 5 "$work"/*.log >&2; exit 1; }
    sleep 0.2
  done
}

knows_services() { [ "$(told "$1" sentinel get-master-addr-by-name redis-order)" = "10.99.1.10 6379" ]; }
refuses() { [[ "$(told "$1" sentinel set redis-order quorum 1)" == NOPERM* ]]; }

nodes=() sentinels=()
for number in 0 1 2; do node $number; sentinel $number; done
until_true "three nodes that are ready" all_ready
until_true "sentinels that know all" all_known
until_true "replicas that may become the primary" promotable
[ "$(primary 0)" = 0 ]
[ "$(admin 0 set kept yes)" = OK ]
[ "$(admin 0 wait 2 10000)" = 2 ]

for number in 0 1 2; do
  until_true "a sentinel that tells a service where the primary is" knows_services $number
  until_true "a sentinel that a service cannot command" refuses $number
done
# One whose configuration is of before there was a user for services, and one that has written it itself.
for number in 1 2; do
  kill -9 "${sentinels[$number]}"
  [ $number = 2 ] || sed -i '/^user service /d' "$work/sentinel-$number/sentinel.conf"
  sentinel $number
  until_true "a sentinel that knows the services again" knows_services $number
  [ "$(grep -c '^user service ' "$work/sentinel-$number/sentinel.conf")" = 1 ]
done
until_true "sentinels that know all again" all_known

kill -9 "${nodes[0]}"
until_true "another primary" moved 0
node 0
until_true "the old primary as a replica" replica 0
[ "$(admin 0 get kept)" = yes ]

# Some sentinels have not heard of the failover yet, and the one that led it may not be at its end.
for round in 1 2 3; do
  until_true "replicas that may become the primary" promotable
  until_true "sentinels that know all" all_known
  before=$(agreed)
  kill -9 "${nodes[$before]}"
  until_true "another primary than $before, round $round" moved "$before"
  node "$before"
  until_true "the old primary as a replica that could be chosen, round $round" promotable
  chosen=$(agreed)
  kill -9 "${nodes[$chosen]}"
  rm -rf "$work/redis-$chosen"/*
  node "$chosen"
  until_true "another primary than $chosen, which has lost its disk, round $round" moved "$chosen"
  until_true "the node without its disk as a replica, round $round" replica "$chosen"
  [ "$(admin "$chosen" get kept)" = yes ]
done

echo "nodes: started at once by name, a primary killed and back, three that were just chosen lost their disk: nothing is missing"
