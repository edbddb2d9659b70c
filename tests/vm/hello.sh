#!/bin/sh
# /init of a machine in the lab. It does what an installer does first: network, root image, report. Then it powers off.
#   fetch=URL      (a Debian live image's own parameter) is fetched and hashed
#   bootplane=URL  the one-time boot ticket: read once, refused the second time, reported to
# Every line it says on the console begins with "hello:".
say() { echo "hello: $*"; }
parameter() { # parameter NAME: its value on the kernel's command line
    for word in $(cat /proc/cmdline); do
        case $word in "$1="*) echo "${word#*=}" && return ;; esac
    done
}

mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs dev /dev
echo 4 >/proc/sys/kernel/printk
while read -r module; do insmod "/modules/$module.ko" || say "module $module: not loaded"; done </modules/order

secure_boot=none
if [ -d /sys/firmware/efi ]; then
    [ ! -f /modules/efivarfs.ko ] || insmod /modules/efivarfs.ko
    mount -t efivarfs efivarfs /sys/firmware/efi/efivars
    variable=/sys/firmware/efi/efivars/SecureBoot-8be4df61-93ca-11d2-aa0d-00e098032b8c
    # four bytes of attributes, then the value
    [ -f "$variable" ] && secure_boot=$(dd if="$variable" bs=1 skip=4 count=1 2>/dev/null | od -An -tu1 | tr -d ' ')
fi
say "up: Linux $(uname -r) $(uname -m), Secure Boot $secure_boot"

ip link set lo up
ip link set eth0 up
udhcpc -i eth0 -s /udhcpc.sh -q -n -t 30 -T 1 || say "no address"
mac=$(cat /sys/class/net/eth0/address)
say "address $(cat /address) for $mac"

sha256=none
root=$(parameter fetch)
if [ -n "$root" ] && wget -q -O /root.squashfs "$root"; then
    sha256=$(sha256sum /root.squashfs | cut -d ' ' -f 1)
fi
say "root image $sha256"

ticket=$(parameter bootplane)
second=none
if [ -n "$ticket" ]; then
    : >/ticket
    wget -q -O /ticket "$ticket" && say "ticket: $(tr '\n' ';' </ticket)"
    second=$(wget -O /dev/null "$ticket" 2>&1 | tr -d '\r' | sed -n 's/.* \(4[0-9][0-9]\)[ .:].*/\1/p' | head -n 1)
    told="sha256=$sha256 mac=$mac address=$(cat /address) bootif=$(parameter BOOTIF) secure_boot=$secure_boot"
    told="$told kernel=$(uname -r) machine=$(uname -m) second_get=$second"
    # A report's description is kept as it is, up to 1000 characters.
    cat >/report <<JSON
{"name": "hello", "description": "$told", "event_type": "finish", "origin": "hello", "result": "SUCCESS",
 "timestamp": $(date +%s)}
JSON
    wget -q -O /answer --header "Content-Type: application/json" --post-data "$(cat /report)" "$ticket" && say "reported"
fi
say "second read of the ticket: $second"
say "done"
sync
poweroff -f
