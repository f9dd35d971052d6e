#!/usr/bin/env bash
# Each verb of a cluster dies at its writes, syncs, renames and removals, one after the other, on the host and on the board. At once
# after it every host opens what it could; then the same command, and `cluster sync` on all hosts, end where they end without a death.
#
#     KILL_STEP    of how many such calls one is tried (23)
set -euo pipefail
# shellcheck source=scripts/tests/mounts.sh
source "$(dirname "$0")/mounts.sh"
# shellcheck source=scripts/tests/deaths.sh
source "$(dirname "$0")/deaths.sh"
# shellcheck source=scripts/tests/clear-folder.sh
source "$(dirname "$0")/clear-folder.sh"

step_width=${KILL_STEP:-23}
calls=write,fsync,mkdir,mkdirat,rename,renameat,unlink,unlinkat
site=$work/site
admin=(--admin-key "$site/admin.key" --passphrase-file "$site/passphrase")
mkdir -p "$site/board" "$site/vms"
head -c 12 /dev/urandom | base64 >"$site/passphrase"

# host NAME: from here on, vmc is the program on that host.
host() {
    config=$site/$1/config.toml
    mkdir -p "$site/$1"
    [[ -e $config ]] || (umask 077 && printf '[events]\nfile = "%s/events.jsonl"\njournal = false\n' "$site/$1" >"$config")
}

# on HOST ARGUMENTS...
on() {
    local former=$config
    host "$1"
    shift
    local status=0
    vmc "$@" || status=$?
    config=$former
    return "$status"
}

sync_all() {
    local name turn
    for turn in 1 2 3; do
        for name in h1 h2; do
            [[ ! -e $site/$name/host/membership.json ]] || on "$name" cluster sync >/dev/null 2>&1 ||
                fail "$1: $name in turn $turn: $(on "$name" cluster sync 2>&1)"
        done
    done
}

opens() {
    on "$1" check "$site/vms/$2" >/dev/null 2>&1
}

# state: who opens which VM, what the hosts say to have, and what is to be done; without what differs from run to run.
state() {
    local name vm
    for name in h1 h2; do
        for vm in "$site"/vms/*; do
            opens "$name" "${vm##*/}" && echo "$name opens ${vm##*/}"
        done
    done
    [[ ! -e $site/h1/host/membership.json ]] || on h1 cluster status --json | /usr/bin/python3 -c 'import json, sys
status = json.load(sys.stdin)
for host in status["hosts"]:
    print(host["name"], host["state"], len(host["keys"]), host["holds"])
for provider in status["providers"]:
    print(provider["name"], provider["generation"], len(provider["old_generations"]))
print(len(status["requests"]), "requests;", *status["problems"])'
    find "$site"/h?/keys -name '*.key' -printf '%P\n' 2>/dev/null | sed -E 's/[0-9a-f-]{36}/UUID/' | sort
    # What a dead writer leaves on the board is hidden and in nobody's way.
    find "$site"/h? \( -name '*.new*' -o -name '*.former' \) -printf 'left over: %f\n'
}

keep() {
    rm -rf "$work/kept"
    cp -a "$site" "$work/kept"
}

put_back() {
    rm -rf "$site"
    cp -a "$work/kept" "$site"
}

deaths=0 done_already=0
# dies_everywhere HOST LOST DONE ARGUMENTS...: the command on that host dies at one of $step_width of its calls. LOST names the host that
# need not open what it could, or nothing. DONE is what the same command may say when a death came after its work.
dies_everywhere() {
    local name=$1 lost=$2 said_if_done=$3
    shift 3
    step "$name: ${*:1:2}"
    keep
    local could
    could=$(state | sed -n 's/^\(h[12]\) opens \(.*\)/\1 \2/p')
    host "$name"
    traced "$work/trace" "$@" || fail "$*: $(vmc "$@" 2>&1)"
    sync_all "$*"
    state >"$work/expected"
    local call number who vm
    while read -r call number <&5; do
        put_back
        host "$name"
        ! struck signal=KILL "$call" "$number" "$@" || continue
        deaths=$((deaths + 1))
        while read -r who vm; do
            [[ $who == "$lost" || -z $who ]] || opens "$who" "$vm" ||
                fail "after $call $number of $*: $who does not open $vm: $(on "$who" check "$site/vms/$vm" 2>&1)"
        done <<<"$could"
        if ! vmc "$@" >"$work/said" 2>&1; then
            grep -q -E "${said_if_done:-^$}" "$work/said" ||
                fail "after $call $number of $*, the same again: $(cat "$work/said")"
            done_already=$((done_already + 1))
        fi
        sync_all "after $call $number of $*"
        state >"$work/found"
        must_equal "after $call $number of $*" "$work/expected" "$work/found"
    done 5< <(strikes "$work/trace" "$step_width")
    put_back
    host "$name"
    vmc "$@" >/dev/null 2>&1
}

host h1
vmc provider add native shared >/dev/null 2>&1
vmc create "$site/vms/web01" --provider shared >/dev/null
dies_everywhere h1 "" "holds another cluster|in the cluster .* already|exists" \
    cluster init prod --name h1 --board "folder:$site/board" "${admin[@]}"
dies_everywhere h1 "" "shares .* already" cluster share shared "${admin[@]}"
sync_all "share"
vmc cluster token "${admin[@]}" >"$site/token" 2>/dev/null
dies_everywhere h2 "" "" cluster join --name h2 --token-file "$site/token"
dies_everywhere h1 "" "is a member of the cluster already" cluster approve h2 "${admin[@]}"
dies_everywhere h1 "" "" cluster sync
dies_everywhere h2 "" "" cluster sync
sync_all "the second host has the key"
opens h2 web01 || fail "the second host does not open what the first one made"
dies_everywhere h1 "" "did not confirm" cluster rotate shared "${admin[@]}"
dies_everywhere h2 "" "" cluster sync
sync_all "the new generation is confirmed"
on h2 create "$site/vms/web02" --provider shared >/dev/null
dies_everywhere h1 "" "" rekey --old-generations "$site/vms"
dies_everywhere h1 "" "has one key" cluster retire shared --datastore "$site/vms" "${admin[@]}"
dies_everywhere h1 "" "no active host h2" cluster remove h2 "${admin[@]}"
dies_everywhere h2 h2 "" cluster sync
sync_all "the second host has gone"
! opens h2 web02 || fail "the removed host opens a VM"
opens h1 web02 || fail "the first host does not open the second one's VM"
echo "$deaths deaths, $done_already times all was done already"
((deaths > 150 / step_width)) || fail "too few deaths"
