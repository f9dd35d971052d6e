#!/usr/bin/env bash
# Deep rekeys that are killed again and again, of a disk at rest and of one that a guest writes to, every byte verified; and
# fio --verify on a disk while it is rekeyed.
#
#     REKEY_KILLS     how often each is killed (100)
#     REKEY_MIB       size of the disk (64)
#     REKEY_SEED      which moments (1)
set -euo pipefail
# shellcheck source=scripts/requirements.sh
source "$(dirname "$0")/../../requirements.sh"
# shellcheck source=scripts/tests/mounts.sh
source "$(dirname "$0")/../mounts.sh"
require_tools 'jq|jq|reads what info and status say'

kills=${REKEY_KILLS:-100}
mib=${REKEY_MIB:-64}
RANDOM=${REKEY_SEED:-1}
mnt=$work/mnt

percent() {
    vmc info --json "$vm/root.raw" | jq -r '.[0].deep_rekey.percent // "none"'
}
# Between 0.1 and 0.7 seconds.
pause() {
    sleep "0.$((RANDOM % 60 + 10))"
}
start_rekey() {
    "$VMCRYPTFS" --config "$config" rekey --deep "$vm" --disk root.raw --rate "$1M" >"$work/rekey.out" 2>&1 </dev/null &
    rekey=$!
    helpers+=("$rekey")
}
verify() {
    start_mount "$vm" "$mnt"
    cmp "$work/expected" "$mnt/root.raw" || fail "$1"
    stop_mount "$mnt"
    vmc check "$vm" >"$work/check.out" || fail "$1: $(cat "$work/check.out")"
}

make_vm
vmc create-disk "$vm/root.raw" --size "${mib}M"
# Three quarters of data, the rest a hole.
head -c "$((mib * 3 / 4))M" /dev/urandom >"$work/expected"
truncate -s "${mib}M" "$work/expected"
start_mount "$vm" "$mnt"
dd if="$work/expected" of="$mnt/root.raw" bs=1M conv=notrunc,sparse,fsync status=none
stop_mount "$mnt"

step "a rekey at rest is killed $kills times"
finished=0
for ((n = 1; n <= kills; n++)); do
    start_rekey $((mib / 2))
    pause
    kill -KILL "$rekey" 2>/dev/null || true
    if wait "$rekey" 2>/dev/null; then finished=$((finished + 1)); fi
    verify "kill $n, at $(percent)%"
done
echo "$finished rekeys finished meanwhile, the last is at $(percent)%"

step "a mount is killed $kills times while a guest writes and the disk is rekeyed"
for ((n = 1; n <= kills; n++)); do
    start_mount "$vm" "$mnt"
    mount_pid=$(vmc status --json "$mnt" | jq .pid)
    # A write that was answered is in the page cache of the backing file, which outlives the mount. The one that was not may
    # have been done, or not, or in part.
    python3 - "$work" "$mnt" "$n" <<'GUEST' &
import errno, os, random, sys
work, mnt, seed = sys.argv[1], sys.argv[2], int(sys.argv[3])
random.seed(seed)
model = os.open(f"{work}/expected", os.O_RDWR)
last = os.open(f"{work}/last", os.O_RDWR | os.O_CREAT)
os.pwrite(last, b"%20d" % 0, 0)
try:
    disk = os.open(f"{mnt}/root.raw", os.O_RDWR)
except OSError as error:
    sys.exit(error.errno == errno.EBUSY)  # else the mount was killed before
size = os.fstat(model).st_size
while True:
    at, data = random.randrange(size // 4096) * 4096, random.randbytes(4096)
    os.pwrite(last, b"%20d" % at, 0)
    try:
        os.pwrite(disk, data, at)
    except OSError:
        break
    os.pwrite(model, data, at)
GUEST
    guest=$!
    helpers+=("$guest")
    start_rekey $((mib / 2))
    pause
    kill -KILL "$mount_pid"
    wait "$rekey" 2>/dev/null || true
    wait "$guest" || fail "the guest"
    fusermount3 -u -z "$mnt" 2>/dev/null || umount -l "$mnt"
    start_mount "$vm" "$mnt"
    python3 - "$work" "$mnt" <<'LAST'
import os, sys
work, mnt = sys.argv[1:3]
last = int(open(f"{work}/last").read())
disk = os.open(f"{mnt}/root.raw", os.O_RDONLY)
os.pwrite(os.open(f"{work}/expected", os.O_RDWR), os.pread(disk, 4096, last), last)
LAST
    stop_mount "$mnt"
    verify "kill $n of the mount, at $(percent)%"
done
echo "the last is at $(percent)%"

step "fio verifies what it writes while the disk is rekeyed, three times"
start_mount "$vm" "$mnt"
for round in 1 2 3; do
    start_rekey $((mib / 4))
    fio --name=verify --filename="$mnt/root.raw" --rw=randwrite --bsrange=512-64k --bs_unaligned=0 --size="${mib}M" \
        --ioengine=psync --verify=crc32c --verify_fatal=1 --verify_backlog=32 --verify_state_save=0 --randseed="$round" \
        </dev/null >"$work/fio.out" 2>&1 || {
        cat "$work/fio.out" >&2
        fail "fio in round $round"
    }
    wait "$rekey" || fail "the rekey of round $round: $(cat "$work/rekey.out")"
done
stop_mount "$mnt"
vmc check "$vm" >"$work/check.out" || fail "$(cat "$work/check.out")"
[[ $(percent) == none ]] || fail "it is in transition still"
