#!/usr/bin/env bash
# A guest's disk through all of a key's life: in the clear, encrypted in place, under a new key, cloned, decrypted. The guest
# finds what it wrote at each station, and the last bytes are the first.
set -euo pipefail
# shellcheck source=scripts/tests/mounts.sh
source "$(dirname "$0")/../mounts.sh"

marker=vmcryptfs-marker-$RANDOM$RANDOM
mnt=$work/mnt
vm=$work/store/web01
scripts=$(readlink -f "$(dirname "$0")/../..")

"$scripts/guest/build"
mkdir -p "$work/config" "$vm"
vmc provider add native local
vmc provider add native other
truncate -s 2G "$vm/root.raw"
printf 'displayName = "web01"\n' >"$vm/web01.vmx"

boot() {
    "$scripts/guest/boot" "$1/root.raw" "$2" "$marker" | tee "$work/$2.out"
}

# boot_mounted FOLDER: the guest verifies through a mount.
boot_mounted() {
    start_mount "$1" "$mnt"
    boot "$mnt" verify
    stop_mount "$mnt"
    [[ $(sed -n 's/^GUEST: WROTE //p' "$work/write.out") == $(sed -n 's/^GUEST: OK //p' "$work/verify.out") ]] ||
        fail "the two guests do not agree on the sum"
}

step "the guest writes, in the clear"
boot "$vm" write
[[ $(occurrences "$marker" "$vm") -gt 0 ]] || fail "the marker is nowhere: the checks below would prove nothing"
cp --sparse=always "$vm/root.raw" "$work/original"

step "encrypted"
vmc encrypt "$vm" --overwrite
[[ $(occurrences "$marker" "$vm") -eq 0 ]] || fail "plaintext shows"
boot_mounted "$vm"

step "under a key of another provider"
vmc rekey "$vm" --provider other
boot_mounted "$vm"

step "cloned"
vmc clone "$vm" "$work/store/web02"
[[ $(occurrences "$marker" "$work/store/web02") -eq 0 ]] || fail "plaintext shows in the clone"
boot_mounted "$work/store/web02"

step "decrypted"
for name in web01 web02; do
    vmc decrypt "$work/store/$name" --all
    cmp "$work/original" "$work/store/$name/root.raw" || fail "$name: something else came back"
done
