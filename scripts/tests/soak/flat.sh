#!/usr/bin/env bash
# One mount under load for a long time: its memory and its descriptors stay what they were after the first tenth of it.
#
#     FLAT_SECONDS    how long (60)
set -euo pipefail
# shellcheck source=scripts/tests/mounts.sh
source "$(dirname "$0")/../mounts.sh"

seconds=${FLAT_SECONDS:-60}
mnt=$work/mnt
durable=$(dirname "$0")/../durable.py

make_vm
vmc create-disk "$vm/fixed.raw" --size 8M
vmc create-disk "$vm/small.raw" --size 8M --sector-size 512
start_mount "$vm" "$mnt"
pid=$(mount_pid "$mnt")

# Resident memory in KiB and open descriptors, at rest.
measure() {
    sleep 1
    echo "$(awk '/^VmRSS:/ { print $2 }' "/proc/$pid/status") $(find "/proc/$pid/fd" -mindepth 1 | wc -l)"
}

# What a tenth of the time is filled with: data of all kinds, and names that come and go.
load() {
    local end=$((SECONDS + seconds / 10)) number=0
    "$durable" write "$mnt" "$work/record" $((seconds / 10)) &
    helpers=($!)
    while ((SECONDS < end)); do
        number=$((number + 1))
        mkdir -p "$mnt/folder-$number/inner"
        echo "text" | tee "$mnt/folder-$number/inner/"{a,b,c}.txt >/dev/null
        ln -s a.txt "$mnt/folder-$number/inner/link"
        mv "$mnt/folder-$number/inner/a.txt" "$mnt/folder-$number/b.txt"
        ls -lR "$mnt/folder-$number" >/dev/null
        vmc status "$mnt" >/dev/null
        rm -r "$mnt/folder-$number"
    done
    wait "${helpers[0]}" || fail "the writer met an error"
    helpers=()
}

load
read -r memory descriptors < <(measure)
echo "after a tenth: $memory KiB, $descriptors descriptors"
for tenth in 2 3 4 5 6 7 8 9 10; do
    load
    read -r memory_now descriptors_now < <(measure)
    echo "after $tenth tenths: $memory_now KiB, $descriptors_now descriptors"
    [[ $descriptors_now -le $((descriptors + 4)) ]] || fail "descriptors grew from $descriptors to $descriptors_now"
    # An eighth and 8 MiB: what an allocator keeps for later differs from time to time, a leak grows without end.
    [[ $memory_now -le $((memory + memory / 8 + 8192)) ]] || fail "memory grew from $memory to $memory_now KiB"
done
"$durable" verify "$mnt" "$work/record" killed
stop_mount "$mnt"
