#!/bin/sh
# Starts a sentinel that watches over the groups in GROUPS_WATCHED (name=address of the first primary). What it learns it writes into its
# configuration, which is kept; it is made only where there is none.
set -eu
config=/data/sentinel.conf
if [ ! -s "$config" ]; then
  umask 077
  {
    echo "port 26379"
    echo "bind 0.0.0.0"
    echo "dir /data"
    echo "requirepass $(cat /run/secrets/sentinel)"
    echo "sentinel sentinel-pass $(cat /run/secrets/sentinel)"
    for watched in $GROUPS_WATCHED; do
      group=${watched%%=*}
      echo "sentinel monitor $group ${watched#*=} 6379 2"
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
