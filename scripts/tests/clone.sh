#!/usr/bin/env bash
# A VM folder is cloned: under keys of its own, under another provider's, under the same; whole, or not there at all.
set -euo pipefail
# shellcheck source=scripts/tests/mounts.sh
source "$(dirname "$0")/mounts.sh"
# shellcheck source=scripts/tests/clear-folder.sh
source "$(dirname "$0")/clear-folder.sh"

mnt=$work/mnt
store=$work/store
mkdir -p "$work/config" "$store"
vmc provider add native local
vmc provider add native other
small_folder "$store/web01"
truncate -s 40M "$store/web01/thin.raw"
printf end | dd of="$store/web01/thin.raw" bs=1 seek=30M conv=notrunc status=none
fingerprint "$store/web01" >"$work/expected"
vmc encrypt "$store/web01" >/dev/null 2>&1

# must_show FOLDER: its mount shows what was cloned.
must_show() {
    vmc check "$1" >/dev/null
    start_mount "$1" "$mnt"
    fingerprint "$mnt" >"$work/found"
    must_equal "$1" "$work/expected" "$work/found"
    stop_mount "$mnt"
}

uuids() {
    vmc info "$1" --json | /usr/bin/python3 -c 'import json, sys
for component in json.load(sys.stdin): print(component["uuid"])' | sort
}

# equal_sectors A B: how many 4096-byte blocks of the first MiB of data are the same in both.
equal_sectors() {
    /usr/bin/python3 - "$1" "$2" <<'END'
import sys
a, b = (open(path, "rb").read()[8 << 20:] for path in sys.argv[1:])
blocks = [(a[at:at + 4096], b[at:at + 4096]) for at in range(0, len(a), 4096)]
print(sum(x == y and any(x) for x, y in blocks))
END
}

step "new keys"
vmc clone "$store/web01" "$store/web02"
must_show "$store/web02"
[[ -z $(comm -12 <(uuids "$store/web01") <(uuids "$store/web02")) ]] || fail "a UUID is there twice"
[[ $(equal_sectors "$store/web01/root.raw" "$store/web02/root.raw") -eq 0 ]] || fail "equal ciphertext under other keys"
(($(allocated "$store/web02/thin.raw") < 200000)) || fail "the thin disk's clone takes $(allocated "$store/web02/thin.raw")"

step "another provider"
vmc clone "$store/web01" "$store/web03" --provider other >/dev/null
vmc info "$store/web03" --json | grep -q '"provider":"other"' || fail "the key is not of the other provider"
! vmc info "$store/web03" --json | grep -q '"provider":"local"' || fail "a key of the source's provider is left"
must_show "$store/web03"

step "the same keys"
vmc clone "$store/web01" "$store/web04" --same-keys >/dev/null
must_show "$store/web04"
[[ -z $(comm -12 <(uuids "$store/web01") <(uuids "$store/web04")) ]] || fail "a UUID is there twice"
[[ $(equal_sectors "$store/web01/root.raw" "$store/web04/root.raw") -gt 40 ]] || fail "the ciphertext was not copied"

step "a clone goes its own way"
start_mount "$store" "$mnt"
for name in web02 web04; do
    printf changed | dd of="$mnt/$name/root.raw" bs=1 conv=notrunc status=none
    echo changed >"$mnt/$name/web01.vmx"
done
fingerprint "$mnt/web01" >"$work/found"
must_equal "the source" "$work/expected" "$work/found"
[[ $(cat "$mnt/web04/web01.vmx") == changed ]] || fail "the clone was not changed"

step "an idle mount is no hindrance, a writer is"
vmc clone "$store/web01" "$store/web05" >/dev/null
exec 3<>"$mnt/web01/root.raw"
must_fail 'in use' vmc clone "$store/web01" "$store/web06"
exec 3>&-
[[ ! -e $store/web06 && -z $(find "$store" -name '.vmcryptfs-new-*') ]] || fail "something is left of a refused clone"
stop_mount "$mnt"
must_show "$store/web05"

step "refusals"
must_fail 'exists already' vmc clone "$store/web01" "$store/web02"
must_fail 'lies in the folder' vmc clone "$store/web01" "$store/web01/copy"
mkdir "$store/clear"
must_fail 'not encrypted' vmc clone "$store/clear" "$store/web06"

step "killed at any moment it is not there, and the next one is whole"
for attempt in 1 2 3 4 5 6; do
    "$VMCRYPTFS" --config "$config" clone "$store/web01" "$store/web07" </dev/null >/dev/null 2>&1 &
    pid=$!
    sleep "0.0$((attempt * 3))"
    kill -KILL "$pid" 2>/dev/null || true
    wait "$pid" 2>/dev/null || true
    if [[ -e $store/web07 ]]; then
        must_show "$store/web07"
        rm -rf "$store/web07"
    fi
done
start_mount "$store" "$mnt"
[[ -z $(find "$mnt" -maxdepth 1 -name '.vmcryptfs-*') ]] || fail "a mount shows a half-made clone"
stop_mount "$mnt"
vmc clone "$store/web01" "$store/web07" >/dev/null
must_show "$store/web07"
[[ -z $(find "$store" -name '.vmcryptfs-new-*') ]] || fail "left behind: $(find "$store" -name '.vmcryptfs-new-*')"
