#!/usr/bin/env bash
# A Linux guest writes to an encrypted disk; after a remount another boot finds all of it, and the backing folder holds
# none of it in plaintext.
set -euo pipefail
# shellcheck source=scripts/tests/mounts.sh
source "$(dirname "$0")/mounts.sh"

marker=vmcryptfs-marker-$RANDOM$RANDOM
mnt=$work/mnt
# What the guest keeps is 70 MiB and a journal of 64 MiB; what it wrote and discarded, 32 MiB more, must be gone.
most_allocated=$((150 * 1048576))

"$scripts/guest/build"
make_vm
vmc create-disk "$vm/root.raw" --size 2G

boot() {
    "$scripts/guest/boot" "$mnt/root.raw" "$1" "$marker" | tee "$work/$1.out"
}

step "the guest writes"
start_mount "$vm" "$mnt"
boot write
step "the marker is in the disk, as the mount shows it"
in_mount=$(occurrences "$marker" "$mnt")
[[ $in_mount -gt 0 ]] || fail "the marker is not even in the decrypted disk: the next check would prove nothing"
stop_mount "$mnt"

step "the marker is nowhere in the backing folder"
on_disk=$(occurrences "$marker" "$vm")
[[ $on_disk -eq 0 ]] || fail "the marker occurs in $on_disk places of $vm"

step "discarded space is given back"
bytes=$(allocated "$vm/root.raw")
[[ $bytes -le $most_allocated ]] || fail "root.raw takes $bytes bytes on disk, expected at most $most_allocated"

step "the guest verifies after a remount"
start_mount "$vm" "$mnt"
boot verify
stop_mount "$mnt"
[[ $(sed -n 's/^GUEST: WROTE //p' "$work/write.out") == $(sed -n 's/^GUEST: OK //p' "$work/verify.out") ]] ||
    fail "the two guests do not agree on the sum"
