#!/bin/sh
# What udhcpc calls: $1 is the event, the rest stands in the environment.
[ "$1" = bound ] || exit 0
ip address add "$ip/${mask:-24}" dev "$interface"
echo "$ip" >/address
