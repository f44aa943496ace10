#!/bin/sh
# Starts one node of a service's database. SERVICE says whose, NODES lists its nodes' addresses with the first primary first, OWN is this
# node's, SENTINELS are those that watch over it (none: it stands alone). The configuration is written anew at each start; only who is the
# primary is taken over, from the sentinels, or from what this node was when they are all gone.
set -eu
secret() { cat "/run/secrets/$1"; }
config=/data/redis.conf
group=redis-$SERVICE

# A node may be given by a name that always resolves, to an address that stays (a Service of Kubernetes for each node): here are only addresses.
addresses() {
  for node in "$@"; do
    case $node in
    *[!0-9.]*) until address=$(getent ahostsv4 "$node"); do sleep 1; done; echo "${address%% *}" ;;
    *) echo "$node" ;;
    esac
  done
}
if [ -n "$SENTINELS" ]; then
  OWN=$(addresses "$OWN")
  NODES=$(addresses $NODES | tr '\n' ' ')
  SENTINELS=$(addresses $SENTINELS | tr '\n' ' ')
fi

# The sentinels' primary; nothing when none of them knows. All are asked, and who has heard of the latest failover is right: another one may
# still name the primary before it.
asked() {
  for sentinel in $SENTINELS; do
    REDISCLI_AUTH=$(secret sentinel) timeout 2 redis-cli -h "$sentinel" -p 26379 --raw sentinel master "$group" 2>/dev/null |
      awk 'NR % 2 { name = $0; next } name == "ip" { ip = $0 } name == "config-epoch" { epoch = $0 } END { if (ip != "") print epoch, ip }' &
  done | sort -rn | sed -n '1s/.* //p'
}
# Whether a node says itself that it is no primary; one that does not answer says nothing.
denies() { timeout 2 redis-cli -h "$1" --no-auth-warning --user health --pass none --raw role 2>/dev/null | grep -qx slave; }

primary=
if [ -n "$SENTINELS" ]; then
  denied=0
  while :; do
    primary=$(asked)
    if [ "$primary" = "$OWN" ] && [ ! -e /data/appendonlydir ]; then
      # A primary that has lost its disk must not come back as one: its replicas would throw everything away to follow it.
      echo "this node was the primary and has lost its disk: waiting until the sentinels choose another one" >&2
    elif [ -n "$primary" ] && [ "$primary" != "$OWN" ] && [ $denied -lt 30 ] && denies "$primary"; then
      # Nor may it follow one that follows it: all would be replicas then, and none of them good enough to be chosen. The sentinels have half a
      # minute to agree; should they not, they are believed.
      denied=$((denied + 1))
      echo "$primary, which the sentinels name, is not the primary: asking again" >&2
    else
      break
    fi
    sleep 1
  done
  if [ -z "$primary" ]; then
    if [ -e "$config" ]; then
      primary=$(sed -n 's/^replicaof \([^ ]*\) .*/\1/p' "$config")
      : "${primary:=$OWN}"
    else
      primary=${NODES%% *}
    fi
  fi
fi

umask 077
cat >"$config" <<CONFIG
port 6379
bind 0.0.0.0
dir /data
# The append-only file is the truth; snapshots would only double the writing.
save ""
appendonly yes
appendfsync always
no-appendfsync-on-rewrite no
auto-aof-rewrite-percentage 100
auto-aof-rewrite-min-size 256mb
tcp-backlog 4096
hash-max-listpack-value 1024
# Evicting anything would be losing money: a full database must refuse instead.
maxmemory-policy noeviction
maxmemory ${MAXMEMORY:-0}
lazyfree-lazy-expire yes
lazyfree-lazy-server-del yes
lazyfree-lazy-user-del yes
lazyfree-lazy-user-flush yes
user default off
user admin on >$(secret redis-admin) ~* &* +@all
user $SERVICE on >$(secret "redis-$SERVICE") ~* resetchannels -@all +@read +@write +@connection -@dangerous -function +function|load +function|list +fcall +fcall_ro +wait +time +role +info
user replica on >$(secret redis-replica) resetchannels -@all +psync +replconf +ping
user sentinel on >$(secret redis-sentinel) &* -@all +multi +exec +ping +info +role +publish +subscribe +replicaof +slaveof +failover +config|rewrite +client|setname +client|kill +script|kill
user health on nopass resetchannels -@all +ping +role
masteruser replica
masterauth $(secret redis-replica)
CONFIG
if [ -n "$SENTINELS" ]; then
  cat >>"$config" <<CONFIG
# What others know this node by, wherever its connections seem to come from.
replica-announce-ip $OWN
# A primary that nobody follows might be one that was replaced: it must not take writes that will be thrown away.
min-replicas-to-write 1
min-replicas-max-lag 3
repl-diskless-sync yes
repl-diskless-sync-delay 0
repl-backlog-size 64mb
repl-ping-replica-period 1
repl-timeout 10
# Not to be chosen by a sentinel before it has caught up.
replica-priority 0
CONFIG
  [ "$primary" = "$OWN" ] || echo "replicaof $primary 6379" >>"$config"
  (
    export REDISCLI_AUTH="$(secret redis-admin)"
    ask() { timeout 2 redis-cli --user admin "$@" 2>/dev/null; }
    until ask info replication | grep -Eq '^(role:master|master_link_status:up)'; do sleep 0.5; done
    until ask config set replica-priority 100 | grep -q OK; do sleep 0.5; done
  ) &
fi
exec redis-server "$config"
