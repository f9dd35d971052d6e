#!/usr/bin/env bash
# Power loss with real file systems beneath: ext4 and xfs on a loop device are shut down at random moments while programs
# write, without their journals being flushed, and mounted anew. What a sync acknowledged is there, and files that were
# replaced by rename are whole.
#
#     POWER_CUTS    how often on each file system (2)
set -euo pipefail
# shellcheck source=scripts/requirements.sh
source "$(dirname "$0")/../requirements.sh"
# shellcheck source=scripts/tests/mounts.sh
source "$(dirname "$0")/mounts.sh"
# shellcheck source=scripts/tests/power.sh
source "$(dirname "$0")/power.sh"

cuts=${POWER_CUTS:-2}
mnt=$work/mnt
durable=$(dirname "$0")/durable.py

lose_power() {
    local what=$1 pid
    pid=$(mount_pid "$mnt")
    rm -f "$work/record.going"
    "$durable" write "$mnt" "$work/record" &
    helpers=($!)
    until_it_goes
    cut_power
    wait "${helpers[0]}" || fail "$what: the writer met more than a dead file system"
    helpers=()
    rm "$work/record.power-fails"
    come_back "$mnt" "$pid"
    start_mount "$vm" "$mnt"
    "$durable" verify "$mnt" "$work/record" power-cut || fail "$what: what was synced is lost"
}

vmc provider add native local
vm=$below/web01
for kind in ext4 xfs; do
    rm -f "$work/record" "$work/record.power-fails"
    make_medium "$kind"
    vmc create "$vm"
    vmc create-disk "$vm/fixed.raw" --size 8M
    vmc create-disk "$vm/small.raw" --size 8M --sector-size 512
    start_mount "$vm" "$mnt"
    for ((cut = 1; cut <= cuts; cut++)); do
        step "$kind: power cut $cut of $cuts"
        lose_power "$kind, power cut $cut"
    done

    step "$kind: a component is whole or not there when the power fails while it is made"
    for ((number = 1; number <= cuts; number++)); do
        rm -f "$work/record.power-fails"
        pid=$(mount_pid "$mnt")
        (sleep "0.$((RANDOM % 9 + 1))" && cut_power) &
        made=0
        while vmc create-disk "$vm/new-$number-$made.raw" --size 4M >/dev/null 2>&1 &&
            [[ ! -e $work/record.power-fails ]]; do
            made=$((made + 1))
        done
        wait $!
        come_back "$mnt" "$pid"
        for ((disk = 0; disk < made; disk++)); do
            [[ -e $vm/new-$number-$disk.raw ]] || fail "$kind: disk $disk was made and is gone"
        done
        vmc check "$vm" >/dev/null
        start_mount "$vm" "$mnt"
    done

    step "$kind: a file that its file system does not serve any more is of no use until it is opened again"
    stop_mount "$mnt"
    start_mount "$vm" "$mnt" --shared
    pid=$(mount_pid "$mnt")
    exec 5<>"$mnt/fixed.raw"
    cut_power
    ! dd if=/dev/zero bs=4096 count=1 status=none >&5 2>/dev/null || fail "$kind: a dead file system was written"
    exec 5>&-
    grep -q '"operation":"claim-lost".*"component":"[^"]*fixed.raw"' "$work/events-reads.jsonl" || fail "no event says so"
    come_back "$mnt" "$pid"
    start_mount "$vm" "$mnt" --shared
    dd if=/dev/zero bs=4096 count=1 conv=notrunc status=none of="$mnt/fixed.raw"
    stop_mount "$mnt"
    as_root umount "$below"
done
