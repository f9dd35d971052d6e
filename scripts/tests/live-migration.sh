#!/usr/bin/env bash
# A guest that runs moves between two QEMUs, each of which has its disk, nvram and TPM by a mount of its own, as on two hosts: they go over
# when the first one closes them for writing, no byte is lost, and a second writer is refused all the same.
set -euo pipefail
# shellcheck source=scripts/tests/mounts.sh
source "$(dirname "$0")/mounts.sh"

first=$work/a second=$work/b

make_vm
as --32 -o "$work/guest.o" "$scripts/tests/verifying-guest.S"
ld -m elf_i386 --oformat binary -Ttext 0x7c00 -o "$work/guest" "$work/guest.o"
vmc create-disk "$vm/raw.raw" --size 64M
for image in raw.raw image.qcow2; do
    format=${image#*.}
    # As on a file system of this host, and as on one that other hosts use.
    options=()
    [[ $format == raw ]] || options=(--shared)
    start_mount "$vm" "$first" "${options[@]}"
    start_mount "$vm" "$second" "${options[@]}"
    [[ -e $first/$image ]] || qemu-img create -q -f "$format" "$first/$image" 64M
    step "a $format image, its nvram and its TPM move back and forth"
    timeout "${MOVE_SECONDS:-300}" python3 -B "$scripts/tests/live-migration.py" "$work" "${MOVES:-6}" "$format" \
        "$first" "$second" "$image" || fail "a move of $image"
    [[ $format == raw ]] || qemu-img check -q "$first/$image" || fail "the $format image has errors"
    stop_mount "$second"
    stop_mount "$first"
done

vmc check "$vm" >/dev/null || fail "check finds damage"
echo "no byte was lost"
