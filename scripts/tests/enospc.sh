#!/usr/bin/env bash
# A full backing file system: the writer gets ENOSPC, earlier data stay, and space that is given back can be used.
set -euo pipefail
# shellcheck source=scripts/requirements.sh
source "$(dirname "$0")/../requirements.sh"
# shellcheck source=scripts/tests/mounts.sh
source "$(dirname "$0")/mounts.sh"

mnt=$work/mnt
small=$work/store

# Called by the clean-up of mounts.sh, after the mounts on top of it are gone.
# shellcheck disable=SC2317
clean_up_more() {
    ! is_mounted "$small" || as_root umount "$small" || as_root umount -l "$small"
}

mkdir -p "$small"
if ! as_root mount -t tmpfs -o "size=64M,uid=$(id -u),gid=$(id -g),mode=700" vmc-small "$small"; then
    echo "this test mounts a small tmpfs, which needs root" >&2
    exit 77
fi

make_vm
vmc create-disk "$vm/root.raw" --size 1G
start_mount "$vm" "$mnt"
disk=$mnt/root.raw

write_at() {
    dd if="$1" of="$disk" bs=1M seek="$2" conv=notrunc,fsync status=none
}

head -c 16M /dev/urandom >"$work/early"
head -c 100M /dev/urandom >"$work/late"
early_is_there() {
    cmp -n 16777216 "$work/early" "$disk" || fail "$1: earlier data are damaged"
}

step "earlier data"
write_at "$work/early" 0

step "a writer that asks for too much gets ENOSPC"
must_fail 'No space left on device' write_at "$work/late" 100
early_is_there "after ENOSPC"
must_fail 'No space left on device' dd if="$work/late" of="$disk" bs=1M seek=400 oflag=direct conv=notrunc status=none
early_is_there "after ENOSPC with O_DIRECT"

step "what is allocated can still be overwritten, in pieces of any size"
head -c 16M /dev/urandom >"$work/early"
write_at "$work/early" 0
head -c 5001 /dev/urandom >"$work/piece"
for file in "$disk" "$work/early"; do
    dd if="$work/piece" of="$file" bs=5001 oflag=seek_bytes seek=70001 conv=notrunc status=none
done
early_is_there "after overwriting"

step "nothing is lost over a remount"
stop_mount "$mnt"
vmc check "$vm"
start_mount "$vm" "$mnt"
early_is_there "after a remount"

step "space that is discarded can be used again"
fallocate --punch-hole --offset 100M --length 900M "$disk"
head -c 20M "$work/late" >"$work/middle"
write_at "$work/middle" 200
cmp -n 20971520 -i 0:209715200 "$work/middle" "$disk"
early_is_there "after discarding"
stop_mount "$mnt"

step "a new disk on a full file system is made whole or not at all"
dd if=/dev/zero of="$small/filler" bs=1M status=none 2>/dev/null || true
if vmc create-disk "$vm/none.raw" --size 1G 2>"$work/said"; then
    vmc check "$vm/none.raw"
else
    [[ ! -e $vm/none.raw ]] || fail "create-disk failed, and left a disk: $(cat "$work/said")"
    grep -q -i 'no space' "$work/said" || fail "create-disk does not say why: $(cat "$work/said")"
fi
start_mount "$vm" "$mnt"
early_is_there "at the end"
stop_mount "$mnt"
