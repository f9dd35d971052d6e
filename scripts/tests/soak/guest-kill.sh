#!/usr/bin/env bash
# SIGKILL of a mount's process under a running guest: all files that the guest had synced are there when it boots again, and
# its file system is whole.
#
#     GUEST_KILLS    how often (2)
set -euo pipefail
# shellcheck source=scripts/tests/mounts.sh
source "$(dirname "$0")/../mounts.sh"

kills=${GUEST_KILLS:-2}
mnt=$work/mnt

"$scripts/guest/build"
make_vm
vmc create-disk "$vm/root.raw" --size 512M

touch "$work/synced"
for ((round = 1; round <= kills; round++)); do
    step "kill $round of $kills"
    start_mount "$vm" "$mnt"
    "$scripts/guest/boot" "$mnt/root.raw" endure round-$round >"$work/endure.out" 2>&1 &
    helpers=($!)
    for ((tries = 0; tries < 3000; tries++)); do
        ! grep -q 'GUEST: SYNCED' "$work/endure.out" || break
        kill -0 "${helpers[0]}" 2>/dev/null || fail "the guest ended: $(cat "$work/endure.out")"
        sleep 0.1
    done
    sleep "$((RANDOM % 4)).$((RANDOM % 10))"
    kill -KILL "$(mount_pid "$mnt")"
    sleep 0.3
    kill "${helpers[0]}" 2>/dev/null || true
    wait "${helpers[0]}" || true
    helpers=()
    sed -n 's/^GUEST: SYNCED //p' "$work/endure.out" >>"$work/synced"
    vmc umount "$mnt"

    start_mount "$vm" "$mnt"
    "$scripts/guest/boot" "$mnt/root.raw" recall round-$round >"$work/recall.out"
    stop_mount "$mnt"
    sed -n 's/^GUEST: HAS //p' "$work/recall.out" | sort >"$work/has"
    missing=$(sort "$work/synced" | comm -23 - "$work/has")
    [[ -z $missing ]] || fail "the guest had synced these files, and they are gone or changed: $missing"
    echo "$(wc -l <"$work/synced") files that the guest had synced are there"
done
vmc check "$vm" >/dev/null
