#!/usr/bin/env bash
# A mount with little of everything: few descriptors, little memory, thousands of open files, no space at any point, a clock that
# jumps back. Clear errors, nothing lost, no deadlock, and all is well again when there is enough.
#
#     OPEN_FILES    files that are open at once (10000)
#     POINTS        free pages from none to one less than this are tried (10)
set -euo pipefail
# shellcheck source=scripts/requirements.sh
source "$(dirname "$0")/../requirements.sh"
# shellcheck source=scripts/tests/mounts.sh
source "$(dirname "$0")/mounts.sh"

mnt=$work/mnt
points=${POINTS:-10}
small=$work/small
durable=$(dirname "$0")/durable.py
group=

# Called by the clean-up of mounts.sh, after the mounts on top of it are gone.
# shellcheck disable=SC2317
clean_up_more() {
    [[ -z $group ]] || rmdir "$group" || true
    ! is_mounted "$small" || as_root umount "$small" || as_root umount -l "$small"
}

# How many of COUNT files of a folder can be open at once; the errors that opening met, without repetition.
hold_open() {
    timeout 300 python3 - "$1" "$2" <<'PYTHON'
import os, resource, sys
folder, count = sys.argv[1], int(sys.argv[2])
resource.setrlimit(resource.RLIMIT_NOFILE, (count + 100, max(count + 100, resource.getrlimit(resource.RLIMIT_NOFILE)[1])))
files, errors = [], set()
for number in range(count):
    try:
        files.append(os.open(f"{folder}/{number}.txt", os.O_RDWR | os.O_CREAT, 0o600))
        os.write(files[-1], b"%d" % number)
    except OSError as error:
        errors.add(os.strerror(error.errno))
for number, file in enumerate(files):
    assert os.pread(file, 10, 0) == b"%d" % number or errors, f"file {number} holds something else"
print(len(files), *sorted(errors), sep=", ")
PYTHON
}

make_vm
vmc create-disk "$vm/fixed.raw" --size 8M
vmc create-disk "$vm/small.raw" --size 8M --sector-size 512

open_files=${OPEN_FILES:-10000}
step "$open_files open files"
if [[ $(ulimit -H -n) == unlimited || $(ulimit -H -n) -ge $((open_files * 5 / 4 + 1500)) ]]; then
    start_mount "$vm" "$mnt"
    mkdir "$mnt/many"
    said=$(hold_open "$mnt/many" "$open_files")
    [[ $said == "$open_files" ]] || fail "opened: $said"
    pid=$(mount_pid "$mnt")
    for ((tries = 0; tries < 600; tries++)); do
        left=$(find "/proc/$pid/fd" -mindepth 1 | wc -l)
        [[ $left -ge 100 ]] || break
        sleep 0.1
    done
    [[ $left -lt 100 ]] || fail "after all files were closed the mount has $left descriptors"
    rm -r "$mnt/many"
    stop_mount "$mnt"
else
    echo "left out: this machine allows $(ulimit -H -n) descriptors"
fi

step "few descriptors: who opens too many is told, the others go on"
mkdir -p "$mnt"
mounts+=("$mnt")
(ulimit -n 100 && vmc_mount "$vm" "$mnt")
mkdir "$mnt/many"
said=$(hold_open "$mnt/many" 200)
[[ $said == *", Too many open files" && ${said%%,*} -ge 50 ]] || fail "opened: $said"
"$durable" write "$mnt" "$work/record" 1
"$durable" verify "$mnt" "$work/record" killed
rm -r "$mnt/many"
grep -q 'Too many open files' "$work/mount.log" || fail "the log does not say what was missing"
stop_mount "$mnt"

step "little memory: the mount goes on, or it ends and nothing is lost"
start_mount "$vm" "$mnt"
pid=$(mount_pid "$mnt")
kib=$(awk '/^VmSize:/ { print $2 }' "/proc/$pid/status")
as_root prlimit --pid "$pid" --as=$(((kib + 2048) * 1024))
"$durable" write "$mnt" "$work/record" 2
# It may end while it is verified just as well; then there is something to verify all the same.
if stat "$mnt/fixed.raw" >/dev/null 2>&1 && "$durable" verify "$mnt" "$work/record" killed; then
    echo "it went on"
    stop_mount "$mnt"
else
    # It may still be on its way out, and the kernel answers a stat from what it remembers.
    for ((tries = 0; tries < 600; tries++)); do
        [[ -e /proc/$pid ]] || break
        sleep 0.1
    done
    [[ ! -e /proc/$pid ]] || fail "the mount lives, and what it shows is wrong"
    echo "it ended"
    vmc umount "$mnt"
fi
start_mount "$vm" "$mnt"
"$durable" verify "$mnt" "$work/record" killed
stop_mount "$mnt"

# A control group with so many bytes of memory, of either version, in $group; fails where this machine lets us make none.
make_group() {
    local folder limit
    for folder in /sys/fs/cgroup /sys/fs/cgroup/memory; do
        for limit in memory.max memory.limit_in_bytes; do
            group=$folder/vmcryptfs-test-$$
            if mkdir "$group" 2>/dev/null && [[ -w $group/$limit ]] && echo "$1" 2>/dev/null >"$group/$limit"; then
                [[ ! -w $group/memory.swap.max ]] || echo 0 >"$group/memory.swap.max"
                return 0
            fi
            rmdir "$group" 2>/dev/null || true
        done
    done
    group=
    return 1
}

step "a control group of 64 MiB, page cache included: all goes on"
if make_group $((64 << 20)); then
    vmc create-disk "$vm/wide.raw" --size 256M
    mkdir -p "$mnt"
    mounts+=("$mnt")
    (echo "$BASHPID" >"$group/cgroup.procs" && vmc_mount "$vm" "$mnt")
    grep -q -F -x "$(mount_pid "$mnt")" "$group/cgroup.procs" || fail "the mount is not in the control group"
    fio --name=wide --filename="$mnt/wide.raw" --rw=randwrite --bsrange=4k-1m --direct=1 --ioengine=psync --numjobs=8 \
        --size=24M --offset_increment=24M --verify=crc32c --verify_fatal=1 --verify_state_save=0 \
        >"$work/fio.out" 2>&1 </dev/null || fail "$(cat "$work/fio.out")"
    "$durable" write "$mnt" "$work/record" 3
    "$durable" verify "$mnt" "$work/record" killed
    stop_mount "$mnt"
else
    echo "left out: this machine gives us no control group for memory"
fi

step "a clock that jumps back"
start_mount "$vm" "$mnt"
echo "in 2001" >"$mnt/notes.txt"
touch -d 2001-01-01 "$mnt/notes.txt" "$vm/vmcryptfs.home" "$vm"
[[ $(cat "$mnt/notes.txt") == "in 2001" && $(date -r "$mnt/notes.txt" +%Y) == 2001 ]] || fail "times of the past disturb"
echo "and now" >>"$mnt/notes.txt"
[[ $(tail -n 1 "$mnt/notes.txt") == "and now" ]] || fail "a file with a time of the past is not changed"
stop_mount "$mnt"

step "no space at any point of a file's life"
mkdir -p "$small"
if ! as_root mount -t tmpfs -o "size=16M,uid=$(id -u),gid=$(id -g),mode=700" vmc-small "$small"; then
    echo "this test mounts a small tmpfs, which needs root" >&2
    exit 77
fi
vm=$small/web01
vmc create "$vm"
vmc create-disk "$vm/root.raw" --size 64M
start_mount "$vm" "$mnt"
head -c 300000 /dev/urandom >"$work/early"
cp "$work/early" "$mnt/early.txt"
dd if="$work/early" of="$mnt/root.raw" conv=notrunc,fsync status=none
head -c 30000 /dev/urandom >"$work/more"
full=0
for ((pages = 0; pages < points; pages++)); do
    rm -f "$mnt/new.txt" "$mnt/new.raw" "$small/filler"
    free=$(df --output=avail -B 1 "$small" | tail -n 1)
    fallocate -l $((free - pages * 4096)) "$small/filler"
    for target in new.txt new.raw; do
        if ! cp "$work/more" "$mnt/$target" 2>"$work/said" || ! sync "$mnt/$target" 2>>"$work/said"; then
            grep -q 'No space left' "$work/said" || fail "with $pages pages free: $(cat "$work/said")"
            full=$((full + 1))
        fi
    done
    # Over what is there, in pieces that are aligned to nothing: no room is needed for a disk's, some for a home file's.
    dd if="$work/early" of="$mnt/root.raw" bs=3001 conv=notrunc status=none || fail "overwriting takes space"
    if ! dd if="$work/early" of="$mnt/early.txt" bs=3001 conv=notrunc status=none 2>"$work/said"; then
        grep -q 'No space left' "$work/said" || fail "with $pages pages free: $(cat "$work/said")"
    fi
    cmp "$work/early" "$mnt/early.txt" || fail "a file that was there is damaged with $pages pages free"
    cmp -n 300000 "$work/early" "$mnt/root.raw" || fail "a disk that was there is damaged with $pages pages free"
    rm "$small/filler"
    for target in new.txt new.raw; do
        if [[ -e $mnt/$target ]]; then
            cp "$work/more" "$mnt/$target" || fail "with room again, $target cannot be written"
            cmp "$work/more" "$mnt/$target"
        fi
    done
done
[[ $full -ge 5 ]] || fail "only $full times was there no space: this proves nothing"
stop_mount "$mnt"
vmc check "$vm" >/dev/null

step "no space while components are made: whole or not at all"
for ((pages = 0; pages < points; pages += 2)); do
    rm -rf "$small/filler" "$small/web02" "$vm/new.raw"
    free=$(df --output=avail -B 1 "$small" | tail -n 1)
    fallocate -l $((free - pages * 4096)) "$small/filler"
    if ! vmc create-disk "$vm/new.raw" --size 64M >/dev/null 2>"$work/said"; then
        grep -q -i 'no space' "$work/said" || fail "create-disk with $pages pages free says: $(cat "$work/said")"
        [[ ! -e $vm/new.raw ]] || fail "create-disk with $pages pages free failed and left a disk"
    fi
    if ! vmc create "$small/web02" >/dev/null 2>"$work/said"; then
        grep -q -i 'no space' "$work/said" || fail "create with $pages pages free says: $(cat "$work/said")"
        [[ ! -e $small/web02/vmcryptfs.home ]] || fail "create with $pages pages free failed and left a home"
    fi
    [[ -z $(find "$small" -name '.vmcryptfs-new-*') ]] || fail "a draft is left"
    vmc check "$vm" >/dev/null
done
