#!/usr/bin/env bash
# Replaces all instances by those of another version, container by container, as README.md says one should: roll.sh VERSION. Exit code 1 where
# not all of them are of that version then, as many as before, and well.
set -euo pipefail
here=$(dirname "$0")
. "$here/lib.sh"
for service in payment stock order; do
  began=$SECONDS before=$(containers_of "$service-service" | wc -l)
  said=$(CHECKOUT_VERSION=$1 "$here/../../compose/rollout.sh" "$service-service" 2>&1) || { echo "$said" >&2; exit 1; }
  # shellcheck disable=SC2046
  now=$(docker inspect -f '{{.Config.Image}}' $(containers_of "$service-service"))
  [ "$(echo "$now" | sort -u)" = "checkout/$service:$1" ] || { echo "of another version are: $now" >&2; exit 1; }
  [ "$(echo "$now" | wc -l)" = "$before" ] || { echo "there were $before instances of $service, and now: $now" >&2; exit 1; }
  echo "test-compose: $before instances of $service replaced in $((SECONDS - began)) s"
done
until_true 60 "all is whole" whole
