#!/usr/bin/env bash
# One VM folder mounted twice: a disk that is open for writing in one mount cannot be opened in the other (EBUSY), whoever
# closes lets the other in, and several readers do not disturb each other. Keys that a mount has in memory are not exchanged
# by someone who does not know of it.
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
start_mount "$vm" "$second"

step "a writer keeps others out"
exec 5<>"$first/root.raw"
echo "written through the first" >&5
must_fail "$busy" open_for_writing "$second/root.raw"
must_fail "$busy" open_for_reading "$second/root.raw"
must_fail "$busy" truncate -s 1G "$second/root.raw"

step "the same mount may open it again, and other disks are free"
open_for_writing "$first/root.raw"
open_for_writing "$second/other.raw"

step "after the writer's close the other mount has it, with what was written"
exec 5>&-
soon open_for_writing "$second/root.raw"
soon open_for_reading "$second/root.raw"
[[ $(head -c 25 "$second/root.raw") == "written through the first" ]] || fail "the second mount reads something else"

step "readers share, and keep a writer out"
soon open_for_reading "$first/root.raw"
exec 5<"$first/root.raw" 6<"$second/root.raw"
must_fail "$busy" open_for_writing "$second/root.raw"
exec 5>&- 6>&-
soon open_for_writing "$first/root.raw"

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
[[ $(head -c 25 "$second/root.raw") == "written through the first" ]] || fail "data are gone after the kill"

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
