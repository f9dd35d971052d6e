#!/usr/bin/env bash
# qemu-img and qemu-io take disks of the mount for real image files: create, convert, check, compare, map, resize,
# discard, write zeroes, and the locks that keep two QEMUs from one image.
set -euo pipefail
# shellcheck source=scripts/tests/mounts.sh
source "$(dirname "$0")/mounts.sh"

mnt=$work/mnt
# The header area takes a few blocks, and QEMU writes the first block of a file that it makes; the rest is a hole.
most_of_an_empty_disk=65536

make_vm
vmc create-disk "$vm/made.raw" --size 256M
start_mount "$vm" "$mnt"

# A source with data at its beginning, in the middle, at its end, and of every size that rounds badly.
source_image=$work/source.raw
truncate -s 256M "$source_image"
fill() {
    head -c "$2" /dev/urandom | dd of="$source_image" bs=64k oflag=seek_bytes seek="$1" conv=notrunc status=none
}
fill 0 1048576
fill $((32 * 1048576)) 65536
fill $((100 * 1048576)) $((10 * 1048576))
fill $((255 * 1048576)) 1048576

# Offsets and lengths of what holds data, neighbours joined.
data_map() {
    qemu-img map --output=json -f raw "$1" | python3 -c '
import json, sys
found = []
for part in json.load(sys.stdin):
    if part["data"] and not part["zero"]:
        start, end = part["start"], part["start"] + part["length"]
        if found and found[-1][1] == start:
            found[-1][1] = end
        else:
            found.append([start, end])
print(found)'
}

step "raw: convert, compare, map"
qemu-img convert -f raw -O raw "$source_image" "$mnt/converted.raw"
qemu-img compare -f raw -F raw "$source_image" "$mnt/converted.raw"
[[ $(data_map "$source_image") == "$(data_map "$mnt/converted.raw")" ]] ||
    fail "map differs: $(data_map "$source_image") in the source, $(data_map "$mnt/converted.raw") in the mount"

step "raw: convert into a disk that create-disk made"
qemu-img convert -n -f raw -O raw -t none "$source_image" "$mnt/made.raw"
qemu-img compare -f raw -F raw "$source_image" "$mnt/made.raw"

step "raw: and out of the mount again"
qemu-img convert -f raw -O raw "$mnt/converted.raw" "$work/back.raw"
cmp "$source_image" "$work/back.raw"

step "qcow2: create, convert, check, compare"
qemu-img create -q -f qcow2 "$mnt/empty.qcow2" 1G
qemu-img check -f qcow2 "$mnt/empty.qcow2"
qemu-img convert -f raw -O qcow2 "$source_image" "$mnt/x.qcow2"
qemu-img check -f qcow2 "$mnt/x.qcow2"
qemu-img compare -f raw -F qcow2 "$source_image" "$mnt/x.qcow2"
qemu-img snapshot -c before "$mnt/x.qcow2"
qemu-io -f qcow2 -t none -c 'write -q -P 0x5a 1M 3M' "$mnt/x.qcow2"
qemu-img check -f qcow2 "$mnt/x.qcow2"
qemu-img snapshot -a before "$mnt/x.qcow2"
qemu-img compare -f raw -F qcow2 "$source_image" "$mnt/x.qcow2"

step "after a remount all of them are the same"
stop_mount "$mnt"
start_mount "$vm" "$mnt"
for disk in converted.raw made.raw; do
    qemu-img compare -f raw -F raw "$source_image" "$mnt/$disk"
done
qemu-img compare -f raw -F qcow2 "$source_image" "$mnt/x.qcow2"

step "sparse stays sparse"
truncate -s 4G "$work/hole.raw"
qemu-img convert -f raw -O raw "$work/hole.raw" "$mnt/hole.raw"
[[ $(stat -c %s "$mnt/hole.raw") -eq $((4 << 30)) ]] || fail "hole.raw has $(stat -c %s "$mnt/hole.raw") bytes"
bytes=$(allocated "$vm/hole.raw")
[[ $bytes -le $most_of_an_empty_disk ]] || fail "an empty disk takes $bytes bytes on disk"
case $(data_map "$mnt/hole.raw") in
    '[]' | '[[0, 4096]]') ;;
    *) fail "an empty disk maps as $(data_map "$mnt/hole.raw")" ;;
esac
cp --sparse=always "$source_image" "$mnt/copied.raw"
cmp "$source_image" "$mnt/copied.raw"
[[ $(allocated "$vm/copied.raw") -le $(($(allocated "$source_image") + most_of_an_empty_disk)) ]] ||
    fail "a sparse copy takes $(allocated "$vm/copied.raw") bytes, its source $(allocated "$source_image")"

step "preallocation"
qemu-img create -q -f raw -o preallocation=falloc "$mnt/falloc.raw" 32M
cmp -n $((32 << 20)) "$mnt/falloc.raw" /dev/zero
qemu-img create -q -f raw -o preallocation=full "$mnt/full.raw" 8M
cmp -n $((8 << 20)) "$mnt/full.raw" /dev/zero

step "resize"
qemu-img resize -q -f raw "$mnt/made.raw" 300M
cmp -n $((256 << 20)) "$source_image" "$mnt/made.raw"
cmp -n $((44 << 20)) -i $((256 << 20)):0 "$mnt/made.raw" /dev/zero
qemu-img resize -q -f raw --shrink "$mnt/made.raw" 100M
qemu-img resize -q -f raw "$mnt/made.raw" 256M
cmp -n $((100 << 20)) "$source_image" "$mnt/made.raw"
cmp -n $((156 << 20)) -i $((100 << 20)):0 "$mnt/made.raw" /dev/zero

# io [qemu-io option...] COMMAND...: on trim.raw with discard=unmap; commands are those arguments that hold a space.
io() {
    local argument
    local -a options=()
    for argument in "$@"; do
        case $argument in
            *' '*) options+=(-c "$argument") ;;
            *) options+=("$argument") ;;
        esac
    done
    qemu-io -f raw -d unmap "${options[@]}" "$mnt/trim.raw" >"$work/io.out" 2>&1 || {
        cat "$work/io.out" >&2
        fail "qemu-io ${options[*]}"
    }
    # Older versions of qemu-io end well even if a pattern does not match.
    ! grep -i 'verification failed' "$work/io.out" || fail "qemu-io ${options[*]}"
}

for cache in none writeback; do
    step "discard and write zeroes, cache=$cache"
    rm -f "$mnt/trim.raw"
    truncate -s 128M "$mnt/trim.raw"
    io -t "$cache" 'write -P 0xaa 0 64M' 'flush '
    full=$(allocated "$vm/trim.raw")
    io -t "$cache" 'discard 0 32M' 'read -P 0 0 32M' 'read -P 0xaa 32M 32M' 'flush '
    trimmed=$(allocated "$vm/trim.raw")
    [[ $((full - trimmed)) -ge $((31 << 20)) ]] || fail "discarding 32 MiB gave back $((full - trimmed)) bytes"
    io -t "$cache" 'write -z -u 32M 16M' 'read -P 0 32M 16M' 'read -P 0xaa 48M 16M' 'flush '
    zeroed=$(allocated "$vm/trim.raw")
    [[ $((trimmed - zeroed)) -ge $((15 << 20)) ]] || fail "zeroing 16 MiB gave back $((trimmed - zeroed)) bytes"
    # Neighbours of a range that is aligned to 512 bytes only.
    io -t "$cache" 'write -P 1 96M 64k' 'write -z -u 100664320 1024' \
        'read -P 1 96M 1024' 'read -P 0 100664320 1024' 'read -P 1 100665344 62k'
    # Without unmap the zeroes may take space, and must be there all the same.
    io -t "$cache" 'write -P 2 100M 64k' 'write -z 100M 32k' 'read -P 0 100M 32k' 'read -P 2 104890368 32k'
done

step "image locking"
# A virtual machine that never starts holds the image as a running one does; qemu-io alone would share it.
mkfifo "$work/monitor"
qemu-system-x86_64 -accel tcg -machine q35 -nodefaults -display none -S -monitor stdio \
    -drive "file=$mnt/made.raw,format=raw,cache=none,if=virtio" <"$work/monitor" >"$work/monitor.out" 2>&1 &
helpers+=($!)
exec 9>"$work/monitor"
echo 'info status' >&9
for ((tries = 0; tries < 300; tries++)); do
    ! grep -q 'VM status: paused' "$work/monitor.out" || break
    sleep 0.1
done
grep -q 'VM status: paused' "$work/monitor.out" || fail "QEMU did not open the disk: $(cat "$work/monitor.out")"
must_fail 'lock' qemu-io -f raw -c 'write -P 8 0 512' "$mnt/made.raw"
must_fail 'lock' qemu-img resize -q -f raw "$mnt/made.raw" 1G
qemu-img info -U -f raw "$mnt/made.raw" >/dev/null
echo 'quit' >&9
exec 9>&-
wait "${helpers[-1]}"
qemu-io -f raw -c 'write -P 8 0 512' "$mnt/made.raw" >/dev/null || fail "the disk is not free after its QEMU ended"

stop_mount "$mnt"
