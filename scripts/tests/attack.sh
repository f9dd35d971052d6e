#!/usr/bin/env bash
# Other users, and other processes of the same user, reach neither the mount nor its socket, keys or memory; keys are in no
# dump, log, environment or command line.
#
# Other users: what they do not reach is in their reach.
set -euo pipefail
# shellcheck source=scripts/tests/mounts.sh
source "$(dirname "$0")/mounts.sh"

if [[ $(id -u) -ne 0 ]]; then
    echo "this test takes the part of several users, which only root can" >&2
    exit 77
fi
mnt=$work/mnt
search=$(dirname "$0")/key-search.py
planted=planted-$RANDOM$RANDOM$RANDOM

as_nobody() {
    setpriv --reuid=65534 --regid=65534 --clear-groups "$@"
}

# The mount's own user, but without the rights that make root more than that.
as_same_user() {
    setpriv --bounding-set=-all --inh-caps=-all "$@"
}

# read_by WHO FILE
read_by() {
    "$1" head -c 1 "$2" >/dev/null
}

make_vm
vmc create-disk "$vm/root.raw" --size 8M
export VMCRYPTFS_PLANTED=$planted
start_mount "$vm" "$mnt" -vv
echo "a secret of the VM" >"$mnt/notes.txt"
echo "a secret of the guest" | dd of="$mnt/root.raw" conv=notrunc status=none
pid=$(mount_pid "$mnt")
device=$(stat -c %d "$mnt")
socket=/run/vmcryptfs/$((device >> 8 & 0xfff))-$((device & 0xff)).sock
[[ -S $socket ]] || fail "there is no control socket $socket"
# Nothing but what is tested keeps others out.
let_others_in
chmod 755 "$work" "$vm" "$work/store"
echo "for all" >"$work/readable"
chmod 644 "$work/readable"

step "control: the other user can read what is for all"
read_by as_nobody "$work/readable"
read_by as_same_user "$work/readable"

step "another user reads neither the mount, the components, the key, the log, nor the process"
for path in "$mnt/notes.txt" "$mnt/root.raw" "$vm/root.raw" "$vm/vmcryptfs.home" "$config" "$work/config/keys/local.key" \
    "$work/mount.log" "/proc/$pid/mem" "/proc/$pid/environ" "/proc/$pid/maps"; do
    must_fail 'Permission denied' read_by as_nobody "$path"
done
must_fail 'Permission denied' as_nobody ls "$mnt"
must_fail 'Permission denied' as_nobody ls "/proc/$pid/fd"
must_fail 'Permission ?[Dd]enied' as_nobody python3 -c 'import socket, sys
socket.socket(socket.AF_UNIX).connect(sys.argv[1])' "$socket"
must_fail 'denied|not permitted' as_nobody kill -TERM "$pid"

step "another process of the same user does not read its memory"
# Not by the function: a shell in between would be the process that is looked at.
setpriv --bounding-set=-all --inh-caps=-all sleep 60 &
helpers+=($!)
sleep 0.2
read_by as_same_user "/proc/${helpers[-1]}/environ" || fail "control: it cannot even read that of an ordinary process"
for file in mem environ maps; do
    must_fail 'Permission denied' read_by as_same_user "/proc/$pid/$file"
done
grep -q -E '^Max core file size +0 +0 ' "/proc/$pid/limits" || fail "the process may dump core"

step "no key is in a dump, the command line, the environment, the log, the events, or anything that a verb prints"
exec 5<>"$mnt/root.raw"
# Files of the home that many threads open and close: no copy of a key may stay on their stacks or in the heap.
# shellcheck disable=SC2016 # it is for the shell inside
seq 32 | xargs -P 8 -I{} sh -c 'echo "note {}" >"$1/note-{}" && cat "$1/note-{}" "$1/notes.txt" >/dev/null' - "$mnt"
# Whatever a verb says, if only that it refuses. Those that change keys come first: the keys of the end are searched for.
for words in "rekey $vm" "rekey --deep $vm --disk root.raw" "rekey --deep $vm" "key add $vm/root.raw" "key remove $vm --provider local" \
    "status $mnt" "unlock $mnt" "lock $mnt" "info $vm" "check $vm" "key list $vm" "key in-use --provider local $work/store" \
    "header backup $vm/root.raw $work/saved" "header restore $vm/root.raw $work/saved" "encrypt $vm --dry-run" \
    "decrypt $vm --all --dry-run" "clone $vm $work/store/web02" "create $vm" "create-disk $vm/root.raw --size 1M" \
    "erase $vm/root.raw" "provider list" "provider test local" "events" "events --json"; do
    echo "$words"
    # shellcheck disable=SC2086 # they are words
    vmc -vv $words || true
    # shellcheck disable=SC2086
    vmc -vv $words --json || true
done >"$work/printed" 2>&1
grep -q 'rekey-deep' "$work/printed" || fail "this proves nothing: $(cat "$work/printed")"
texts=("$work/mount.log" "$work/printed" "$work/events.jsonl" "$work/events-reads.jsonl")
"$search" unlocked "$pid" "$work/config/keys/local.key" "$vm" "$planted" "${texts[@]}"
echo "DEK: $(od -A n -v -t x1 "$work/config/keys/local.key" | tr -d ' \n')" >"$work/leak"
must_fail 'primary key is in' "$search" unlocked "$pid" "$work/config/keys/local.key" "$vm" "$planted" "$work/leak"
exec 5>&-
sleep 0.5
vmc lock "$mnt" >/dev/null
"$search" locked "$pid" "$work/config/keys/local.key" "$vm" "$planted" "${texts[@]}"
stop_mount "$mnt"

# A build that does not optimise leaves round keys of vaes on stacks: scripts/soak asks for it, with a release build.
for engine in ${ENGINES:-aws-lc}; do
    [[ $engine != vaes ]] || grep -q -w vaes /proc/cpuinfo || continue
    step "the cipher engine $engine leaves no key on stacks or in the heap, nor any after a lock"
    start_mount "$vm" "$mnt" --engine "$engine"
    seq 8 | xargs -P 4 -I{} dd if=/dev/zero of="$mnt/root.raw" bs=64k count=1 seek={} conv=notrunc status=none
    seq 8 | xargs -P 4 -I{} dd if="$mnt/root.raw" of=/dev/null bs=64k count=1 skip={} status=none
    "$search" unlocked "$(mount_pid "$mnt")" "$work/config/keys/local.key" "$vm" "$planted"
    sleep 0.5
    vmc lock "$mnt" >/dev/null
    "$search" locked "$(mount_pid "$mnt")" "$work/config/keys/local.key" "$vm" "$planted"
    stop_mount "$mnt"
done

step "where memory cannot be locked, the mount says so"
mounts+=("$mnt")
prlimit --memlock=0:0 setpriv --bounding-set=-ipc_lock "$VMCRYPTFS" --config "$config" mount --log-file "$work/mount.log" \
    "$vm" "$mnt" </dev/null
grep -q 'locked memory is too low' "$work/mount.log" || fail "no warning: $(tail -n 3 "$work/mount.log")"
stop_mount "$mnt"
