#!/bin/sh
# Starts nginx with the configuration of compose/nginx.conf, asking this cluster's name server. nginx does not know the search list of
# /etc/resolv.conf, so the names of the services become whole ones.
set -eu
server=$(sed -n 's/^nameserver  *//p' /etc/resolv.conf | head -n 1)
case $server in *:*) server="[$server]" ;; esac
domain=$(sed -n 's/^search  *\([^ ]*\).*/\1/p' /etc/resolv.conf)
sed -e "s/^\( *resolver\) [^ ]*/\1 $server/" -e "s/\(order\|payment\|stock\)-service:/\1-service.$domain:/" /conf/nginx.conf >/tmp/nginx.conf
exec nginx -c /tmp/nginx.conf -g "daemon off;"
