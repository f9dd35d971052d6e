#!/usr/bin/env bash
# `rekey --deep` of a VM folder is killed at its writes, syncs, renames, links and removals, or one of them fails: each time
# everything is readable at once, agrees with its manifest, and the next run finishes. And nothing of the home gets its name before it
# is synced.
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
small_folder "$vm"
vmc encrypt "$vm" >/dev/null 2>&1
vmc create-disk "$vm/data.vmdk" --size 1M >/dev/null
start_mount "$vm" "$work/mnt" --manifest
: >"$work/mnt/changed"
fingerprint "$work/mnt" >"$work/expected"
stop_mount "$work/mnt"
cp -a --sparse=always "$vm" "$work/encrypted"

fresh() {
    rm -rf "$vm"
    cp -a --sparse=always "$work/encrypted" "$vm"
    vmc accept-rollback "$vm" >/dev/null # it is what it was before the last deep rekey
}

# A fingerprint without times: what was re-encrypted says so by them, for those who copy by size and time.
without_times() {
    sed -E 's/^(\.\/.* [0-9]+) [0-9]+\.[0-9]+( .*)?$/\1\2/' "$1"
}

# Moreover, what has several names may be several files until the next run.
comparable() {
    without_times "$1" | sed -E 's/^(\.\/\S+ f .*) [0-9]+ $/\1/'
}

# must_show WHEN FILTER: a mount shows what was encrypted at first.
must_show() {
    start_mount "$vm" "$work/mnt"
    fingerprint "$work/mnt" >"$work/found"
    stop_mount "$work/mnt"
    "$2" "$work/expected" >"$work/wanted"
    "$2" "$work/found" >"$work/got"
    must_equal "$1" "$work/wanted" "$work/got"
}

step "everything is synced before it gets its name, and names before the header says so"
traced "$work/rekey.trace" rekey --deep "$vm"
must_show "after a deep rekey" without_times
"$(dirname "$0")/sync-order.py" "$work/rekey.trace"

# proven WHEN: all is as the manifest says.
proven() {
    vmc check "$vm" >"$work/checked" || fail "$1: $(cat "$work/checked")"
    grep -q 'as its manifest' "$work/checked" || fail "$1: nothing is proven: $(cat "$work/checked")"
}

# all_are_newer: times were to be set, and each file of the folder has one that is later than before.
all_are_newer() {
    [[ $call == utimensat ]] || return
    (cd "$work/encrypted" && find . -type f ! -name '.vmcryptfs-*') | while read -r file; do
        [[ $(stat -c %Y "$vm/$file") -gt $(stat -c %Y "$work/encrypted/$file") ]] || exit 1
    done
}

turn=0 deaths=0 errors=0
step "one of $step_width calls is its last, or fails"
while read -r call number <&5; do
    turn=$((turn + 1))
    fresh
    status=0
    if ((turn % 2)); then
        struck signal=KILL "$call" "$number" rekey --deep "$vm" || deaths=$((deaths + 1))
    else
        struck error=EIO "$call" "$number" rekey --deep "$vm" || status=$?
        if grep -q INJECTED "$work/struck"; then
            errors=$((errors + 1))
            # What the host remembers of it is another file, and no part of the rekey; if it cannot get its name when it is whole, it is
            # made by that. A failure to set times may cost nothing: a draft gets other times later.
            [[ $status -ne 0 ]] || grep -q 'is not remembered' "$work/said" || grep -q 'linkat(.*/\.seen\.new.*INJECTED' "$work/struck" ||
                all_are_newer ||
                fail "$call $number failed, and the rekey says that all is well"
        fi
    fi
    proven "$call $number"
    ((turn % 3)) || must_show "$call $number" comparable
    vmc rekey --deep "$vm" >/dev/null 2>&1 || fail "$call $number: it does not go on: $(vmc rekey --deep "$vm" 2>&1)"
    left=$(left_over "$vm" .vmcryptfs-manifest)
    [[ -z $left ]] || fail "$call $number: left behind: $left"
    [[ $(vmc check "$vm") != *"under way"* ]] || fail "$call $number: $(vmc check "$vm")"
    must_show "$call $number, finished" comparable
    proven "$call $number, finished"
done 5< <(strikes "$work/rekey.trace" "$step_width")
echo "$deaths deaths, $errors errors in $turn runs"
((deaths * 2 > turn / 2 && errors * 2 > turn / 2)) || fail "too few hit"

step "Ctrl-C stops at a safe point, and the same command goes on"
fresh
status=0
struck signal=INT pwrite64 12 rekey --deep "$vm" || status=$?
[[ $status -eq 12 ]] || fail "exit code $status; it said: $(cat "$work/said")"
vmc check "$vm" | grep -q 'a deep rekey is under way' || fail "$(vmc check "$vm")"
vmc info "$vm" --json | /usr/bin/python3 -c 'import json, sys
found = [vmdk for part in json.load(sys.stdin) for vmdk in part.get("vmdks", [])]
sys.exit(len(found) != 1 or "problem" in found[0])' ||
    fail "a descriptor that is under the old key is not read: $(vmc info "$vm")"
vmc rekey --deep "$vm" >/dev/null
must_show "after Ctrl-C" comparable
