#!/usr/bin/env bash
# One VM folder mounted twice: a disk that is open for writing in one mount cannot be opened for that in the other (EBUSY). It goes
# over as soon as the last writer closes it, to one that waits for it, too. Readers disturb nobody. Keys that a mount has in memory are
# not exchanged by someone who does not know of it.
set -euo pipefail
# shellcheck source=scripts/tests/mounts.sh
source "$(dirname "$0")/mounts.sh"

first=$work/first second=$work/second
busy='Device or resource busy'

open_for_writing() {
    : 3<>"$1"
}
open_for_reading() {
    : 3<"$1"
}

# The kernel tells FUSE of a close after the closer has gone on.
soon() {
    local tries
    for ((tries = 0; tries < 50; tries++)); do
        if "$@" 2>/dev/null; then
            return 0
        fi
        sleep 0.1
    done
    fail "still busy after 5 s: $*"
}

make_vm
vmc create-disk "$vm/root.raw" --size 64M
vmc create-disk "$vm/other.raw" --size 64M
start_mount "$vm" "$first"
start_mount "$vm" "$second" --hand-over 1s

step "a writer keeps other writers out; readers see what it wrote"
exec 5<>"$first/root.raw"
echo "written through the first" >&5
must_fail "$busy" open_for_writing "$second/root.raw"
must_fail "$busy" truncate -s 1G "$second/root.raw"
[[ $(head -c 25 "$second/root.raw") == "written through the first" ]] || fail "the second mount reads something else"

step "the same mount may open it again, and other disks are free"
open_for_writing "$first/root.raw"
open_for_writing "$second/other.raw"

step "after the writer's close the other mount has it, though the first goes on to read"
exec 6<"$first/root.raw"
exec 5>&-
soon open_for_writing "$second/root.raw"
exec 7<>"$second/root.raw"
echo "written through the other" >&7
truncate -s 65M "$second/root.raw"
[[ $(head -c 25 <&6) == "written through the other" ]] || fail "the first mount reads what was there before"
[[ $(stat -c %s "$first/root.raw") -eq $((65 << 20)) ]] || fail "the first mount shows the former length"

step "an opener waits for the writer's close"
sleep 1 & # has it open as well
exec 7>&-
begun=$(date +%s%N)
open_for_writing "$first/root.raw" || fail "the first mount did not get the disk back"
(($(date +%s%N) - begun > 500000000)) || fail "the disk was free, so nothing was waited for"
wait $!
exec 6<&-

step "a mount that is killed leaves no lock behind"
exec 5<>"$first/root.raw"
killed=''
for pid in $(our_processes); do
    if tr '\0' ' ' <"/proc/$pid/cmdline" | grep -q -F " $first "; then
        killed=$pid
        kill -KILL "$pid"
    fi
done
[[ -n $killed ]] || fail "no process of the first mount was found"
exec 5>&- || true
fusermount3 -u -z "$first"
soon open_for_writing "$second/root.raw"
[[ $(head -c 25 "$second/root.raw") == "written through the other" ]] || fail "data are gone after the kill"

step "a home's data key is not exchanged by someone who cannot ask the mount"
# As on another host: the mount's control socket is out of reach.
elsewhere() {
    if [[ $(id -u) -eq 0 ]]; then
        # shellcheck disable=SC2016 # for the inner shell
        in_private_mounts /run sh -c 'mount -t tmpfs -o mode=700 tmpfs /run/vmcryptfs && exec "$@"' sh "$VMCRYPTFS" --config "$config" "$@"
    else
        mkdir -p "$work/elsewhere"
        XDG_RUNTIME_DIR=$work/elsewhere vmc "$@"
    fi
}
echo old >"$second/web01.vmx"
for words in "rekey --deep $vm" "decrypt $vm --all" "erase --yes $vm"; do
    # shellcheck disable=SC2086 # they are words
    must_fail 'unmount it there first' elsewhere $words
done
elsewhere rekey "$vm" >/dev/null || fail "another key that wraps does no harm, and was refused"
echo older >"$second/older.log"
vmc lock "$second" >/dev/null
elsewhere rekey --deep "$vm" >/dev/null
vmc unlock "$second" >/dev/null
echo new >"$second/new.log"
stop_mount "$second"
start_mount "$vm" "$second"
[[ $(cat "$second/web01.vmx" "$second/older.log" "$second/new.log") == $'old\nolder\nnew' ]] || fail "something cannot be read"

stop_mount "$second"
