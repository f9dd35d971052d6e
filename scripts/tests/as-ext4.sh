#!/usr/bin/env bash
# An ordinary user's mount gives what the file system beneath gives: random calls, of files and folders with any permissions.
#
# Other users: all of it is done by one.
set -euo pipefail

# shellcheck source=scripts/tests/mounts.sh
source "$(dirname "$0")/mounts.sh"
[[ $(id -u) -ne 0 ]] || as_ordinary_user

mnt=$work/mnt

# calls SEED NAME: random calls in the folders of this name, of the mount and beside it.
calls() {
    # What cannot be entered could not be removed by the test's end.
    "$scripts/tests/as-ext4.py" "$mnt/$2" "$work/plain/$2" "$1" 3000 ||
        { chmod -R u+rwX "$mnt" "$work/plain" && fail "a mount does not give what the file system beneath does"; }
}

make_vm
for transport in dev-fuse auto; do
    for seed in ${SEEDS:-11 $RANDOM}; do
        step "random calls, seed $seed, transport $transport, with remounts"
        start_mount "$vm" "$mnt" --transport "$transport"
        mkdir -p "$mnt/$transport-$seed" "$work/plain/$transport-$seed"
        for round in 1 2 3; do
            calls "$seed-$round" "$transport-$seed"
            stop_mount "$mnt"
            start_mount "$vm" "$mnt" --transport "$transport"
        done
        chmod -R u+rwX "$mnt" "$work/plain"
        stop_mount "$mnt"
    done
done
vmc check "$vm" >/dev/null
