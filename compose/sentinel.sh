#!/bin/sh
# Starts a sentinel that watches over the groups in GROUPS_WATCHED (name=address of the first primary). Where it is known by one address, OWN
# says so; either may be a name that always resolves (a Service of Kubernetes), to an address that stays. What it learns it writes into its
# configuration, which is kept; it is made only where there is none.
set -eu
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
  umask 077
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
exec redis-server "$config" --sentinel
