#!/usr/bin/env bash
# SIGKILL of a mount's process at random moments while programs write, fio among them. After each: all that was acknowledged
# is there, and nothing keeps the next mount from working.
#
#     KILLS    how often (4)
set -euo pipefail
# shellcheck source=scripts/tests/mounts.sh
source "$(dirname "$0")/mounts.sh"

kills=${KILLS:-4}
mnt=$work/mnt
durable=$(dirname "$0")/durable.py

# Every block of the disk carries its own checksum and place, whichever of fio's runs wrote it.
fio_job() {
    fio --name=kill --filename="$mnt/fio.raw" --size=16M --bs=4k --ioengine=psync --direct=1 --verify=crc32c \
        --verify_fatal=1 --verify_state_save=0 --output-format=terse "$@" </dev/null
}

make_vm
vmc create-disk "$vm/fixed.raw" --size 8M
vmc create-disk "$vm/small.raw" --size 8M --sector-size 512
vmc create-disk "$vm/fio.raw" --size 16M
start_mount "$vm" "$mnt"
fio_job --rw=write --do_verify=0 >/dev/null

for ((round = 1; round <= kills; round++)); do
    step "kill $round of $kills"
    rm -f "$work/record.going"
    "$durable" write "$mnt" "$work/record" &
    helpers=($!)
    fio_job --rw=randwrite --do_verify=0 --randseed="$round" --time_based --runtime=600 --fsync=16 >"$work/fio.out" 2>&1 &
    helpers+=($!)
    until_it_goes
    pid=$(mount_pid "$mnt")
    kill -KILL "$pid"
    wait "${helpers[0]}" || fail "the writer met more than a dead mount"
    if wait "${helpers[1]}"; then
        fail "fio did not notice that the mount died"
    fi
    helpers=()
    vmc umount "$mnt"
    ! is_mounted "$mnt" || fail "a dead mount stays"

    start_mount "$vm" "$mnt"
    "$durable" verify "$mnt" "$work/record" killed || fail "what was acknowledged is lost after kill $round"
    fio_job --rw=read >"$work/fio.out" 2>&1 || fail "fio finds a damaged block after kill $round: $(cat "$work/fio.out")"
done

step "control: an older state of one slot is noticed"
"$durable" write "$mnt" "$work/record" 0.3
cp "$mnt/fixed.raw" "$work/older"
"$durable" write "$mnt" "$work/record" 2
dd if="$work/older" of="$mnt/fixed.raw" conv=notrunc status=none
if "$durable" verify "$mnt" "$work/record" killed 2>/dev/null; then
    fail "an older state was not noticed: this test proves nothing"
fi
stop_mount "$mnt"
vmc check "$vm" >/dev/null
