#!/usr/bin/env bash
# A user without any rights of root's makes a VM, mounts it by fusermount3, and works in it.
#
# Other users: all of it is done by one.
set -euo pipefail

# shellcheck source=scripts/tests/mounts.sh
source "$(dirname "$0")/mounts.sh"
[[ $(id -u) -ne 0 ]] || as_ordinary_user

mnt=$work/$(printf 'm\351nt') # names are any bytes, for fusermount3 too

run_fio() {
    fio --name=own --filename="$mnt/root.raw" --size=16M --rw=randwrite --bs=4k --direct=1 --ioengine=psync --numjobs=2 \
        --offset_increment=16M --verify=crc32c --verify_fatal=1 --verify_state_save=0 "$@" >"$work/fio.out" 2>&1 </dev/null ||
        fail "$(cat "$work/fio.out")"
}

make_vm
vmc create-disk "$vm/root.raw" --size 64M
odd=$vm$(printf '\351,b')
mv "$vm" "$odd"
vm=$odd

step "mount, by the transport that the machine has"
start_mount "$vm" "$mnt" -v
expected=dev-fuse
[[ $(cat /sys/module/fuse/parameters/enable_uring 2>/dev/null) != Y ]] || expected=io-uring
grep -q "is mounted; transport $expected" "$work/mount.log" || fail "not by $expected"
[[ $(stat -c %u "$mnt/root.raw") == "$(id -u)" ]] || fail "the disk belongs to someone else"

step "a disk and home files"
run_fio --do_verify=1
qemu-img create -q -f qcow2 "$mnt/layer.qcow2" 16M
qemu-io -f qcow2 -c 'write -P 7 1M 3M' "$mnt/layer.qcow2" >/dev/null
mkdir "$mnt/snapshots"
(cd "$scripts" && tar -c .) | tar -x -C "$mnt/snapshots"
diff -r "$scripts" "$mnt/snapshots"
chmod 600 "$mnt/snapshots/test"
must_fail 'not permitted' chown 0:0 "$mnt/snapshots/test"
if ! grep -q '^user_allow_other' /etc/fuse.conf; then
    mkdir "$work/other"
    must_fail 'user_allow_other' vmc_mount "$vm" "$work/other" -o allow_other
fi

step "all of it after a remount"
stop_mount "$mnt"
start_mount "$vm" "$mnt"
run_fio --verify_only=1
qemu-io -r -f qcow2 -c 'read -P 7 1M 3M' "$mnt/layer.qcow2" | grep -q '^read 3145728' || fail "the layer is not as it was written"
diff -r "$scripts" "$mnt/snapshots"
stop_mount "$mnt"
vmc check "$vm" >/dev/null
