#!/usr/bin/env bash
# fio writes blocks that carry their own checksum and place; after a remount it must find every one of them again.
#
#     FIO_MIB     MiB that each of the jobs writes (32)
#     FIO_SEED    which order of blocks (20)
set -euo pipefail
# shellcheck source=scripts/tests/mounts.sh
source "$(dirname "$0")/mounts.sh"

size=${FIO_MIB:-32}
mnt=$work/mnt

# io_uring may be forbidden, in containers mostly; fio finds out only by trying.
engine=io_uring
fio --name=probe --filename="$work/probe" --size=4k --ioengine=io_uring >/dev/null 2>&1 || engine=libaio

# Job NAME runs on DISK with the fio options that follow, and is remembered for the second look.
jobs=()
run_fio() {
    local name=$1 disk=$2
    shift 2
    step "$name on $disk"
    fio --name="$name" --filename="$mnt/$disk" --size="${size}M" --randseed="${FIO_SEED:-20}" \
        --verify=crc32c --verify_fatal=1 --verify_state_save=0 --group_reporting --output-format=terse "$@" \
        </dev/null >"$work/fio.out" 2>&1 || {
        cat "$work/fio.out" >&2
        return 1
    }
}
verified() {
    jobs+=("$(printf '%q ' "$@")")
    run_fio "$@" --do_verify=1 || fail "$1 on $2"
}

make_vm
for sector_size in 4096 512; do
    vmc create-disk "$vm/s$sector_size.raw" --size "$((size * 10))M" --sector-size "$sector_size"
done
start_mount "$vm" "$mnt"
# A file of the home as well. As long as it will be, because fio makes files anew that are too short for a job.
truncate -s "$((size * 10))M" "$mnt/home-file"

direct=(--direct=1 --ioengine="$engine" --iodepth=16)
buffered=(--direct=0 --ioengine=psync)
for disk in s4096.raw s512.raw home-file; do
    # Areas of their own, so that no later job overwrites what an earlier one wants to see again.
    verified "direct-mixed-sizes" "$disk" "${direct[@]}" --rw=randwrite --bsrange=512-65536 --blockalign=512 \
        --numjobs=4 --offset=0 --offset_increment="${size}M"
    verified "direct-4k-mixed-reads" "$disk" "${direct[@]}" --rw=randrw --bs=4k --numjobs=2 \
        --offset="$((size * 4))M" --offset_increment="${size}M"
    verified "buffered-unaligned" "$disk" "${buffered[@]}" --rw=randwrite --bs=1801 --blockalign=1801 --numjobs=2 \
        --offset="$((size * 6))M" --offset_increment="${size}M" --fsync=64
    verified "buffered-large" "$disk" "${buffered[@]}" --rw=write --bs=1000001 --blockalign=1000001 --numjobs=1 \
        --offset="$((size * 8))M"
done

step "remount"
stop_mount "$mnt"
start_mount "$vm" "$mnt"
for job in "${jobs[@]}"; do
    eval "run_fio $job --verify_only=1" || fail "after the remount: $job"
done

step "control: one changed byte is noticed"
printf 'X' | dd of="$mnt/home-file" bs=1 seek=$((size * 8 * 1048576 + 123456)) conv=notrunc status=none
if eval "run_fio ${jobs[-1]} --verify_only=1" 2>/dev/null; then
    fail "fio did not notice a changed byte: this test proves nothing"
fi
stop_mount "$mnt"
