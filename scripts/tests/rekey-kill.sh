#!/usr/bin/env bash
# Kills `rekey` (SIGKILL, at random moments), and with it every second time the mount that does the work. After each kill
# every component opens; then the next run finishes, and of the keys before it nothing is left in any header.
#
#     REKEY_KILLS    how many kills (12)
set -euo pipefail
# shellcheck source=scripts/tests/mounts.sh
source "$(dirname "$0")/mounts.sh"

kills=${REKEY_KILLS:-12}
disks=6
mountpoint=$work/mount

make_vm
for ((disk = 0; disk < disks; disk++)); do
    vmc create-disk "$vm/$disk.raw" --size 1M >/dev/null
done

# Key ids that the headers name, each once. The text of a header is read, not our idea of it.
key_ids() {
    local file
    for file in "$vm"/vmcryptfs.home "$vm"/*.raw; do
        head -c 4202496 "$file" | grep -aoE '[0-9a-f-]{36}/[A-Za-z0-9_-]{54}' || true
    done | sort -u
}

# In which range of time to kill: a little more than an undisturbed run takes.
started=$(date +%s%N)
vmc rekey "$vm" >/dev/null
whole=$((($(date +%s%N) - started) * 12 / 10000000))
interrupted=0 finished=0

step "$kills kills within $whole ms"
for ((kill = 0; kill < kills; kill++)); do
    mounted=$((kill % 2))
    if ((mounted)); then
        start_mount "$vm" "$mountpoint"
        mount_process=$(vmc status --json "$mountpoint" | grep -oE '"pid":[0-9]+' | cut -d : -f 2)
        exec 5<>"$mountpoint/0.raw"
    fi
    "$VMCRYPTFS" --config "$config" rekey "$vm" >/dev/null 2>&1 &
    rekey=$!
    sleep "$(printf '0.%03d' $((RANDOM % whole % 1000)))"
    if ((mounted && kill % 4 == 3)); then
        kill -KILL "$mount_process"
    fi
    kill -KILL "$rekey" 2>/dev/null || true
    if wait "$rekey" 2>/dev/null; then finished=$((finished + 1)); else interrupted=$((interrupted + 1)); fi
    if ((mounted)); then
        exec 5>&-
        stop_mount "$mountpoint"
    fi
    vmc check "$vm" >/dev/null || fail "after kill $kill: $(vmc check "$vm" 2>&1)"
    vmc rekey "$vm" >/dev/null
    vmc check "$vm" >/dev/null || fail "after finishing kill $kill"
    keys=$(key_ids | wc -l)
    [[ $keys -eq 1 ]] || fail "after kill $kill the headers name $keys keys: $(key_ids)"
done
echo "$interrupted interrupted, $finished finished before the kill"
((interrupted * 4 > kills)) || fail "too few kills hit"
