#!/bin/sh
# Starts a sentinel that watches over the groups in GROUPS_WATCHED (name=address of the first primary). Where it is known by one address, OWN
# says so; either may be a name that always resolves (a Service of Kubernetes), to an address that stays. What it learns it writes into its
# configuration, which is kept; it is made only where there is none. Only what services may do is written anew at each start.
set -eu
umask 077
config=/data/sentinel.conf
address() {
  case $1 in
  *[!0-9.]*) until found=$(getent ahostsv4 "$1"); do sleep 1; done; echo "${found%% *}" ;;
  *) echo "$1" ;;
  esac
}
if [ ! -s "$config" ]; then
  # A node that hears from a sentinel that it is the primary, and has no data, takes itself for one that lost its disk: the first start of the
  # databases comes before the first of the sentinels, also where nobody else sees to it.
  for watched in $GROUPS_WATCHED; do
    first=$(address "${watched#*=}")
    until timeout 2 redis-cli -h "$first" --no-auth-warning --user health --pass none ping 2>/dev/null | grep -q PONG; do sleep 1; done
  done
  {
    echo "port 26379"
    echo "bind 0.0.0.0"
    echo "dir /data"
    echo "requirepass $(cat /run/secrets/sentinel)"
    echo "sentinel sentinel-pass $(cat /run/secrets/sentinel)"
    [ -z "${OWN:-}" ] || echo "sentinel announce-ip $(address "$OWN")"
    for watched in $GROUPS_WATCHED; do
      group=${watched%%=*}
      echo "sentinel monitor $group $(address "${watched#*=}") 6379 2"
      echo "sentinel down-after-milliseconds $group 2000"
      echo "sentinel failover-timeout $group 4000"
      echo "sentinel parallel-syncs $group 2"
      echo "sentinel auth-user $group sentinel"
      echo "sentinel auth-pass $group $(cat /run/secrets/redis-sentinel)"
    done
  } >"$config.new"
  mv "$config.new" "$config"
fi
# Also where the configuration is one of before this user was there, and where it may do something else now than then.
password=$(cat /run/secrets/sentinel-service)
{
  sed '/^user service /d' "$config"
  echo "user service on >$password resetchannels &+switch-master &+promoted-slave &+try-failover &+selected-slave &+sdown &-sdown &+slave -@all +@connection -@dangerous +subscribe +sentinel|get-master-addr-by-name +sentinel|master +sentinel|replicas"
} >"$config.new"
# Whole on the disk before it takes the other's place: who was the primary stands nowhere else, should all lose power now.
sync "$config.new"
mv "$config.new" "$config"
exec redis-server "$config" --sentinel
