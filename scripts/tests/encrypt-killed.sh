#!/usr/bin/env bash
# `encrypt` and `decrypt` are killed at their writes, syncs, renames, links and removals, one after the other, or one of these
# fails; what they leave behind is finished, or turned back, and equals the original byte for byte. And no new form gets its name before it is synced.
# What is decrypted has a manifest, by which no run is refused, and of which nothing is left.
#
#     KILL_STEP    of how many such calls one is tried (9)
set -euo pipefail
# shellcheck source=scripts/tests/mounts.sh
source "$(dirname "$0")/mounts.sh"
# shellcheck source=scripts/tests/deaths.sh
source "$(dirname "$0")/deaths.sh"
# shellcheck source=scripts/tests/clear-folder.sh
source "$(dirname "$0")/clear-folder.sh"

step_width=${KILL_STEP:-9}
vm=$work/web01

mkdir -p "$work/config"
vmc provider add native local 2>/dev/null
small_folder "$work/original"
fingerprint "$work/original" >"$work/expected"

fresh() {
    rm -rf "$vm"
    cp -a --sparse=always "$work/original" "$vm"
}

step "every new form is synced before it gets its name, and names before the state changes"
fresh
traced "$work/encrypt.trace" encrypt "$vm"
fingerprint_through_mount() {
    start_mount "$vm" "$work/mnt"
    fingerprint "$work/mnt" >"$work/found"
    stop_mount "$work/mnt"
}
fingerprint_through_mount
must_equal "the mount shows something else" "$work/expected" "$work/found"
traced "$work/decrypt.trace" decrypt "$vm" --all
fingerprint "$vm" >"$work/found"
must_equal "something else came back" "$work/expected" "$work/found"
"$(dirname "$0")/sync-order.py" "$work/encrypt.trace" "$work/decrypt.trace"

# The folder's header, in whatever state.
header() {
    find "$vm" -maxdepth 1 \( -name vmcryptfs.home -o -name '.vmcryptfs-*crypting' \)
}

# A fingerprint without what an interruption may cost (docs/CLI.md): the times of folders are those that the last run began
# with, and a file with several names that is turned back halfway is as many equal files.
comparable() {
    sed -E -e '/^\.\/tpm(\/deep)? d /d' -e 's/^(\.\/\S+ f .*) [0-9]+ $/\1/' "$1"
}

turn=0 manifest=
# finish_either_way WHERE: every other time forwards and then back, otherwise back at once.
finish_either_way() {
    turn=$((turn + 1))
    if ((turn % 2)); then
        vmc encrypt "$vm" >/dev/null 2>&1 || fail "$1: encrypt does not go on: $(vmc encrypt "$vm" 2>&1)"
        left=$(left_over "$vm" "$manifest")
        [[ -z $left ]] || fail "$1: left behind: $left"
        vmc check "$vm" >/dev/null || fail "$1: $(vmc check "$vm")"
    fi
    # Nothing was encrypted at all where there is no header.
    if [[ -n $(header) ]]; then
        vmc decrypt "$vm" --all >/dev/null 2>&1 || fail "$1: decrypt does not go on: $(vmc decrypt "$vm" --all 2>&1)"
    fi
    # A draft of the header is all that can be left then, or the list of its disks, which is made before it and goes after it.
    find "$vm" \( -name '.vmcryptfs-new-*' -o -name '.vmcryptfs-members-*' \) -delete
    fingerprint "$vm" >"$work/found"
    comparable "$work/expected" >"$work/wanted"
    comparable "$work/found" >"$work/got"
    must_equal "$1" "$work/wanted" "$work/got"
}

# strike CALL N ARGUMENTS...: vmcryptfs dies at this call, or, of four times one, the call fails, which it must not conceal;
# but for times, which only a folder's owner may set, and the removal of what the next run removes. The host's memory of what it
# has seen is written when the work is done: a failure there is told, and the work stands.
hits=0 misses=0
strike() {
    local how=signal=KILL
    ((turn % 4 != 3)) || how=error=EIO
    if ! struck "$how" "$@"; then
        hits=$((hits + 1))
    elif grep -q INJECTED "$work/struck" && [[ $1 != utimensat && $1 != unlinkat ]] &&
        ! grep -q '^vmcryptfs: what this host has seen of components is not remembered: ' "$work/said" &&
        ! grep -q 'linkat(.*/\.seen\.new.*INJECTED' "$work/struck"; then
        fail "$1 $2 failed, and $3 says that all is well"
    else
        # Threads share the calls anew in each run, and strace counts by thread: some numbers are never reached.
        misses=$((misses + 1))
    fi
}

step "encrypt dies or fails at one of $step_width of its calls"
while read -r call number <&5; do
    fresh
    strike "$call" "$number" encrypt "$vm"
    finish_either_way "$call $number"
done 5< <(strikes "$work/encrypt.trace" "$step_width")
echo "$hits hits, $misses misses"
((hits > misses * 3)) || fail "too few hits"

fresh
vmc encrypt "$vm" >/dev/null 2>&1
start_mount "$vm" "$work/mnt" --manifest
: >"$work/mnt/changed"
rm "$work/mnt/changed"
stop_mount "$work/mnt"
manifest=.vmcryptfs-manifest # a decryption that dies before it begins leaves it
[[ -e $vm/$manifest ]] || fail "the home has no manifest"
cp -a --sparse=always "$vm" "$work/encrypted"
step "decrypt dies or fails at one of $step_width of its calls"
hits=0 misses=0
while read -r call number <&5; do
    rm -rf "$vm"
    cp -a --sparse=always "$work/encrypted" "$vm"
    vmc accept-rollback "$vm" >/dev/null # it is what it was before the last one
    strike "$call" "$number" decrypt "$vm" --all
    finish_either_way "$call $number"
done 5< <(strikes "$work/decrypt.trace" "$step_width")
echo "$hits hits, $misses misses"
((hits > misses * 3)) || fail "too few hits"

# interrupted N FOLDER ARGUMENTS...: Ctrl-C comes with the N-th write. It is obeyed, and says so in one line.
interrupted() {
    local number=$1 status=0
    shift
    struck signal=INT pwrite64 "$number" "$@" || status=$?
    # On a slow machine, lines of progress come before it.
    [[ $status -eq 12 && $(grep -c '^vmcryptfs: ' "$work/said") -eq 1 ]] || fail "$*: exit code $status; it said: $(cat "$work/said")"
    grep -q 'run it again to resume' "$work/said" || fail "$*: it does not say how to go on: $(cat "$work/said")"
}

step "Ctrl-C stops at a safe point, and the same command goes on"
fresh
interrupted 4 encrypt "$vm"
vmc encrypt "$vm" >/dev/null 2>&1
interrupted 4 clone "$vm" "$work/web02"
[[ ! -e $work/web02 ]] || fail "a clone that was stopped is there"
vmc clone "$vm" "$work/web02" >/dev/null
interrupted 4 decrypt "$vm" --all
for folder in "$vm" "$work/web02"; do
    vmc decrypt "$folder" --all >/dev/null
    fingerprint "$folder" >"$work/found"
    comparable "$work/expected" >"$work/wanted"
    comparable "$work/found" >"$work/got"
    must_equal "$folder after Ctrl-C" "$work/wanted" "$work/got"
done
