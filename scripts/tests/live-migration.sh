#!/usr/bin/env bash
# A guest that runs moves between two QEMUs, each of which has its disk by a mount of its own, as on two hosts: the disk goes over
# when the first one closes it for writing, no byte is lost, and a second writer is refused all the same.
set -euo pipefail
# shellcheck source=scripts/tests/mounts.sh
source "$(dirname "$0")/mounts.sh"

first=$work/a second=$work/b

make_vm
vmc create-disk "$vm/raw.raw" --size 64M
start_mount "$vm" "$first"
start_mount "$vm" "$second"
qemu-img create -q -f qcow2 "$first/image.qcow2" 64M

for image in raw.raw image.qcow2; do
    format=${image#*.}
    step "a $format image moves back and forth"
    timeout 300 python3 "$scripts/tests/live-migration.py" "$work" "${MOVES:-10}" "$format" "$first/$image" "$second/$image" ||
        fail "a move of $image"
done
qemu-img check -q "$first/image.qcow2" || fail "the qcow2 image has errors"

stop_mount "$second"
stop_mount "$first"
vmc check "$vm" >/dev/null || fail "check finds damage"
echo "no byte was lost"
