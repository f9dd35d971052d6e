#!/usr/bin/env bash
# A guest's disk through all of a key's life: in the clear, encrypted in place, under a new key, under new data keys, while it is
# off and while it runs, cloned, decrypted. The guest finds what it wrote at each station, and the last bytes are the first.
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
    [[ $wrote == $(sed -n 's/^GUEST: OK //p' "$work/verify.out") ]] ||
        fail "the two guests do not agree on the sum"
}

step "the guest writes, in the clear"
boot "$vm" write
[[ $(occurrences "$marker" "$vm") -gt 0 ]] || fail "the marker is nowhere: the checks below would prove nothing"
cp --sparse=always "$vm/root.raw" "$work/original"
wrote=$(sed -n 's/^GUEST: WROTE //p' "$work/write.out")

step "encrypted"
vmc encrypt "$vm" --overwrite
[[ $(occurrences "$marker" "$vm") -eq 0 ]] || fail "plaintext shows"
boot_mounted "$vm"

step "under a key of another provider"
vmc rekey "$vm" --provider other
boot_mounted "$vm"

step "under new data keys"
vmc rekey --deep "$vm" >/dev/null
boot_mounted "$vm"

# rekey_again FOLDER: deep rekeys of its disk, one after the other, for as long as the guest runs.
rekey_again() {
    : >"$work/rekeys"
    while [[ -e $work/running ]]; do
        vmc rekey --deep "$1" --disk root.raw >>"$work/rekeys" || return 1
    done
}

# while_it_runs FOLDER MODE: the guest runs from a mount meanwhile, and every deep rekey succeeds.
while_it_runs() {
    start_mount "$1" "$mnt"
    touch "$work/running"
    rekey_again "$1" &
    helpers=($!)
    boot "$mnt" "$2"
    rm "$work/running"
    wait "${helpers[0]}" || fail "a deep rekey under a running guest failed"
    helpers=()
    stop_mount "$mnt"
    echo "$(grep -c '^New key' "$work/rekeys") deep rekeys meanwhile"
}

step "under new data keys, while the guest verifies"
while_it_runs "$vm" verify

step "under new data keys, while a guest writes, discards and verifies"
vmc create "$work/store/web03"
vmc create-disk "$work/store/web03/root.raw" --size 2G
while_it_runs "$work/store/web03" write
while_it_runs "$work/store/web03" verify
cmp <(sed -n 's/^GUEST: WROTE //p' "$work/write.out") <(sed -n 's/^GUEST: OK //p' "$work/verify.out") ||
    fail "the guest does not find what it wrote during deep rekeys"

step "cloned"
vmc clone "$vm" "$work/store/web02"
[[ $(occurrences "$marker" "$work/store/web02") -eq 0 ]] || fail "plaintext shows in the clone"
boot_mounted "$work/store/web02"

step "decrypted"
for name in web01 web02; do
    vmc decrypt "$work/store/$name" --all
    cmp "$work/original" "$work/store/$name/root.raw" || fail "$name: something else came back"
done
