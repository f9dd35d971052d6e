#!/usr/bin/env bash
# One VM folder mounted and unmounted again and again: each mount has what the one before wrote, and nothing of it stays behind.
#
#     MOUNTS    how often (60)
# Runs alone: it counts the mounts of the whole machine.
set -euo pipefail
# shellcheck source=scripts/tests/mounts.sh
source "$(dirname "$0")/mounts.sh"

mnt=$work/mnt
count=${MOUNTS:-60}

# What the machine has of things that a mount must give back.
kernel_has() {
    echo "mounts $(wc -l </proc/self/mounts) connections $(find /sys/fs/fuse/connections -mindepth 1 -maxdepth 1 2>/dev/null | wc -l)"
}

make_vm
vmc create-disk "$vm/root.raw" --size 1M
before=$(kernel_has)
step "$count mounts"
for ((number = 1; number <= count; number++)); do
    start_mount "$vm" "$mnt"
    if [[ $number -gt 1 ]]; then
        [[ $(cat "$mnt/notes.txt") == $((number - 1)) ]] || fail "mount $number: the home file is not as it was left"
        cmp -n 4096 "$work/block" "$mnt/root.raw" || fail "mount $number: the disk is not as it was left"
    fi
    echo "$number" >"$mnt/notes.txt"
    head -c 4096 /dev/urandom >"$work/block"
    dd if="$work/block" of="$mnt/root.raw" conv=notrunc status=none
    # Every other one ends by a signal.
    if ((number % 2)); then
        stop_mount "$mnt"
    else
        kill "$(mount_pid "$mnt")"
        wait_gone 10 || fail "mount $number is still there 10 s after its signal"
        ! is_mounted "$mnt" || fail "mount $number outlives its process"
    fi
    mounts=()
done
wait_gone 10 || fail "a process is left: $(our_processes)"
[[ $(kernel_has) == "$before" ]] || fail "before: $before; after: $(kernel_has)"
vmc check "$vm" >/dev/null
