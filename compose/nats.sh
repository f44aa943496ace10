#!/bin/sh
# Starts one nats-server of the cluster, whose three servers NATS_NODES names: its configuration takes passwords from the environment, so they are
# put there from their files.
set -eu
for user in admin order payment stock auditor observer cluster; do
  name=NATS_$(echo "$user" | tr a-z A-Z)_PASSWORD
  # In quotes, because a password could be read as a number.
  export "$name=\"$(cat "/run/secrets/nats-$user")\""
done
number=0
for node in ${NATS_NODES:-nats-1 nats-2 nats-3}; do
  number=$((number + 1))
  export "NATS_ROUTE_$number=\"nats-route://cluster:$(cat /run/secrets/nats-cluster)@$node:6222\""
done
exec nats-server --config /etc/nats/cluster.conf --name "$(hostname)"
