#!/usr/bin/env bash
# Power loss with real file systems beneath: ext4 and xfs on a loop device are shut down at random moments while programs
# write, without their journals being flushed, and mounted anew. What a sync acknowledged is there, and files that were
# replaced by rename are whole.
#
#     POWER_CUTS    how often on each file system (2)
set -euo pipefail
# shellcheck source=scripts/requirements.sh
source "$(dirname "$0")/../requirements.sh"
# shellcheck source=scripts/tests/mounts.sh
source "$(dirname "$0")/mounts.sh"

cuts=${POWER_CUTS:-2}
mnt=$work/mnt
below=$work/store
durable=$(dirname "$0")/durable.py

# Called by the clean-up of mounts.sh, after the mounts on top of it are gone.
# shellcheck disable=SC2317
clean_up_more() {
    ! is_mounted "$below" || as_root umount "$below" || as_root umount -l "$below"
}

mount_below() {
    as_root mount -o loop "$work/medium" "$below"
}

# EXT4_IOC_SHUTDOWN and XFS_IOC_GOINGDOWN are one number; 2 is: write nothing more, not even the journal.
cut_power() {
    touch "$work/record.power-fails"
    as_root python3 -c 'import fcntl, os, struct, sys
fcntl.ioctl(os.open(sys.argv[1], os.O_RDONLY), 0x8004587D, struct.pack("I", 2))' "$below"
}

# What a dead process had open is given back a moment after the process is gone: requests of its rings end by themselves.
unmount_below() {
    local try
    for try in {1..50}; do
        ! as_root umount "$below" 2>"$work/umount.said" || return 0
        sleep 0.1
    done
    fail "after $try tries: $(cat "$work/umount.said")"
}

# come_back PID: what is there again after the power was cut. The mount's process is killed, not asked: whoever is gone with
# the power holds nothing open. The kernel needs a moment to end it, and the file system is busy until then.
come_back() {
    kill -KILL "$1"
    vmc umount "$mnt"
    wait_gone 10 || fail "the mount's process is there 10 s after it was killed"
    unmount_below
    mount_below
}

lose_power() {
    local what=$1 pid
    pid=$(mount_pid "$mnt")
    rm -f "$work/record.going"
    "$durable" write "$mnt" "$work/record" &
    helpers=($!)
    until_it_goes
    cut_power
    wait "${helpers[0]}" || fail "$what: the writer met more than a dead file system"
    helpers=()
    rm "$work/record.power-fails"
    come_back "$pid"
    start_mount "$vm" "$mnt"
    "$durable" verify "$mnt" "$work/record" power-cut || fail "$what: what was synced is lost"
}

mkdir -p "$below" "$work/config"
vmc provider add native local
vm=$below/web01
for kind in ext4 xfs; do
    rm -f "$work/medium" "$work/record" "$work/record.power-fails"
    truncate -s 512M "$work/medium"
    case $kind in
        ext4) mkfs.ext4 -q -F "$work/medium" ;;
        xfs) mkfs.xfs -q -f "$work/medium" ;;
    esac
    if ! mount_below; then
        echo "this test mounts a file system from a loop device, which needs root and a loop device" >&2
        exit 77
    fi
    as_root chown "$(id -u):$(id -g)" "$below"
    vmc create "$vm"
    vmc create-disk "$vm/fixed.raw" --size 8M
    vmc create-disk "$vm/small.raw" --size 8M --sector-size 512
    start_mount "$vm" "$mnt"
    for ((cut = 1; cut <= cuts; cut++)); do
        step "$kind: power cut $cut of $cuts"
        lose_power "$kind, power cut $cut"
    done

    step "$kind: a component is whole or not there when the power fails while it is made"
    for ((number = 1; number <= cuts; number++)); do
        rm -f "$work/record.power-fails"
        pid=$(mount_pid "$mnt")
        (sleep "0.$((RANDOM % 9 + 1))" && cut_power) &
        made=0
        while vmc create-disk "$vm/new-$number-$made.raw" --size 4M >/dev/null 2>&1 &&
            [[ ! -e $work/record.power-fails ]]; do
            made=$((made + 1))
        done
        wait $!
        come_back "$pid"
        for ((disk = 0; disk < made; disk++)); do
            [[ -e $vm/new-$number-$disk.raw ]] || fail "$kind: disk $disk was made and is gone"
        done
        vmc check "$vm" >/dev/null
        start_mount "$vm" "$mnt"
    done
    stop_mount "$mnt"
    as_root umount "$below"
done
