#!/usr/bin/env bash
# Two hosts on one machine: network namespaces NAME-a (10.77.0.1) and NAME-b (10.77.0.2) with a cable between them.
#
#   scripts/two_hosts.sh up NAME             make them (needs root)
#   scripts/two_hosts.sh on NAME a CMD...    run a command on a host
#   scripts/two_hosts.sh cut NAME a          pull its cable out
#   scripts/two_hosts.sh mend NAME a         plug it in again
#   scripts/two_hosts.sh kill NAME a         end what runs on it, at once
#   scripts/two_hosts.sh down NAME           end what runs on them, and remove them
set -euo pipefail
action=$1 name=$2
case $action in
  up)
    ip netns add "$name-a"
    ip netns add "$name-b"
    ip link add cable netns "$name-a" type veth peer name cable netns "$name-b"
    for host in a b; do
      address=10.77.0.$([ $host = a ] && echo 1 || echo 2)
      ip -n "$name-$host" address add "$address/24" dev cable
      ip -n "$name-$host" link set cable up
      ip -n "$name-$host" link set lo up
    done
    ;;
  on)
    export GLOO_SOCKET_IFNAME=cable
    exec ip netns exec "$name-$3" "${@:4}"
    ;;
  cut) ip -n "$name-$3" link set cable down ;;
  mend) ip -n "$name-$3" link set cable up ;;
  kill) ip netns pids "$name-$3" | xargs -r kill -9 ;;
  down)
    for host in a b; do
      ip netns pids "$name-$host" 2>/dev/null | xargs -r kill -9 || true
      ip netns delete "$name-$host" 2>/dev/null || true
    done
    ;;
  *)
    echo "usage: $0 up|on|cut|mend|kill|down NAME [HOST [CMD...]]" >&2
    exit 2
    ;;
esac
