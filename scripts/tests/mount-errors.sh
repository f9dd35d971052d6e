#!/usr/bin/env bash
# What can be wrong around a mount: each gives one clear line, the documented exit code, and no damage.
set -euo pipefail
# shellcheck source=scripts/tests/mounts.sh
source "$(dirname "$0")/mounts.sh"

# Exit codes by kind of error: docs/CLI.md.
exit_invalid=2
exit_corrupt=3
exit_key_unavailable=4
exit_busy=6
exit_not_found=8
exit_exists=9
exit_unsupported=11

mnt=$work/mnt
mkdir "$mnt"

# refused NAME EXIT-CODE PATTERN COMMAND...: fails with that code and one line that matches, and changes nothing on disk.
refused() {
    local name=$1 wanted=$2 pattern=$3 status=0 before
    shift 3
    step "$name"
    before=$(fingerprint)
    "$@" >"$work/stdout" 2>"$work/stderr" </dev/null || status=$?
    [[ $status -ne 0 ]] || fail "$name: this should have failed: $*"
    [[ $status -eq $wanted ]] || fail "$name: exit code $status, expected $wanted: $(cat "$work/stderr")"
    # Wrong flags are answered by the parser of the command line, which adds where help is to be had.
    [[ $(wc -l <"$work/stderr") -eq 1 ]] || grep -q "try '--help'" "$work/stderr" ||
        fail "$name: expected one line, it said: $(cat "$work/stderr")"
    grep -q -i -E "$pattern" "$work/stderr" || fail "$name: expected /$pattern/, it said: $(cat "$work/stderr")"
    [[ $(fingerprint) == "$before" ]] || fail "$name: files of the VM folder changed"
    ! is_mounted "$mnt" || fail "$name: left something mounted"
}

# Names, sizes and content of all files of the VM folder.
fingerprint() {
    (cd "$work/store" && find . -type f -printf '%p %s\n' -exec sha256sum {} + | sort | sha256sum)
}

# poke FILE OFFSET TEXT: overwrites bytes.
poke() {
    printf '%b' "$3" | dd of="$1" bs=1 seek="$2" conv=notrunc status=none
}

# A fresh copy of the VM folder under another name, for a case that damages it.
copy_of_vm() {
    rm -rf "$work/store/copy"
    cp -a --sparse=always "$vm" "$work/store/copy"
    copy=$work/store/copy
}

header_copies() {
    case $1 in
        vmcryptfs.home) echo "0 65536" ;;
        *) echo "0 4194304" ;;
    esac
}

make_vm
vmc create-disk "$vm/root.raw" --size 16M
start_mount "$vm" "$mnt"
echo "this is what lies in the disk" | dd of="$mnt/root.raw" conv=notrunc,fsync status=none
stop_mount "$mnt"

# --- mountpoints and folders

refused "no mountpoint" "$exit_not_found" "$work/nowhere" vmc_mount "$vm" "$work/nowhere"
touch "$work/file"
refused "the mountpoint is a file" "$exit_invalid" "$work/file.*(directory|folder)" vmc_mount "$vm" "$work/file"
mkdir "$work/full" && touch "$work/full/something"
refused "the mountpoint is not empty" "$exit_busy" "$work/full.*empty" vmc_mount "$vm" "$work/full"
refused "no folder to mount" "$exit_not_found" "$work/nothing" vmc_mount "$work/nothing" "$mnt"
refused "umount of what is not mounted" "$exit_not_found" "$mnt" vmc umount "$mnt"
refused "status of what is not mounted" "$exit_not_found" "$mnt" vmc status "$mnt"
refused "info on what is not there" "$exit_not_found" "nothing.raw" vmc info "$vm/nothing.raw"
head -c 100000 /dev/urandom >"$vm/foreign.raw"
refused "info on a foreign file" "$exit_invalid" "foreign.raw" vmc info "$vm/foreign.raw"
rm "$vm/foreign.raw"
refused "a disk that is there already" "$exit_exists" "exist|already" vmc create-disk "$vm/root.raw" --size 1G
refused "a VM folder that is there already" "$exit_exists" "exist|already" vmc create "$vm"
refused "a sector size that is none" "$exit_invalid" "." vmc create-disk "$vm/new.raw" --size 1G --sector-size 1000
echo 'default = ' >"$work/broken.toml"
chmod 600 "$work/broken.toml"
refused "a configuration that is no TOML" "$exit_invalid" "broken.toml" "$VMCRYPTFS" --config "$work/broken.toml" mount --log-file "$work/mount.log" "$vm" "$mnt"

step "umount of a busy mount"
start_mount "$vm" "$mnt"
exec 5<"$mnt/root.raw"
status=0
vmc umount "$mnt" 2>"$work/stderr" || status=$?
[[ $status -ne 0 ]] || fail "umount of a mount with an open file succeeded"
[[ $status -eq $exit_busy ]] || fail "umount of a busy mount: exit code $status, expected $exit_busy"
grep -q -i 'in use' "$work/stderr" || fail "umount of a busy mount does not say so: $(cat "$work/stderr")"
[[ $(head -n 1 <&5) == "this is what lies in the disk" ]] || fail "the busy mount does not work any more"
exec 5>&-
stop_mount "$mnt"

# --- damaged headers

# `info` takes a VM folder by its own path, and a disk by its.
info_of() {
    case $1 in
        vmcryptfs.home) vmc info "$copy" ;;
        *) vmc info "$copy/$1" ;;
    esac
}

for component in vmcryptfs.home root.raw; do
    said=$component
    [[ $component != vmcryptfs.home ]] || said='home'
    read -r first second <<<"$(header_copies "$component")"
    for damaged in "$first" "$second"; do
        step "$component: the header copy at $damaged is damaged, the other serves"
        copy_of_vm
        poke "$copy/$component" $((damaged + 100)) 'XXXX'
        info_of "$component" >/dev/null 2>&1 || fail "info does not read the other copy"
        start_mount "$copy" "$mnt"
        grep -q -a "this is what lies in the disk" "$mnt/root.raw" || fail "the disk is not readable"
        stop_mount "$mnt"
    done

    copy_of_vm
    poke "$copy/$component" $((first + 100)) 'XXXX'
    poke "$copy/$component" $((second + 100)) 'XXXX'
    refused "$component: both header copies are damaged" "$exit_corrupt" "$said" info_of "$component"

    copy_of_vm
    # Offset 8 is the version (docs/FORMAT.md section 2).
    poke "$copy/$component" $((first + 8)) '\x02\x00'
    poke "$copy/$component" $((second + 8)) '\x02\x00'
    refused "$component: of a newer version" "$exit_unsupported" "version" info_of "$component"

    copy_of_vm
    poke "$copy/$component" $((first + 8)) '\x02\x00'
    refused "$component: one copy of a newer version" "$exit_unsupported" "version" info_of "$component"

    copy_of_vm
    truncate -s 5000 "$copy/$component"
    refused "$component: truncated within its header" "$exit_corrupt" "$said" info_of "$component"
done

step "a damaged home locks the VM as a whole, and says why; names and sizes still show"
copy_of_vm
poke "$copy/vmcryptfs.home" 100 'XXXX'
poke "$copy/vmcryptfs.home" $((65536 + 100)) 'XXXX'
start_mount "$copy" "$mnt"
vmc status "$mnt" >"$work/stdout" 2>&1
grep -q -i 'is damaged: .*damaged' "$work/stdout" || fail "status does not say why the home is locked: $(cat "$work/stdout")"
[[ $(stat -c %s "$mnt/root.raw") -gt 0 ]] || fail "the disk's size does not show"
if cat "$mnt/root.raw" >/dev/null 2>&1; then
    fail "a disk of a locked VM can be read"
fi
stop_mount "$mnt"

step "a damaged disk does not take the others with it"
copy_of_vm
cp --sparse=always "$copy/root.raw" "$copy/bad.raw"
poke "$copy/bad.raw" 100 'XXXX'
poke "$copy/bad.raw" $((4194304 + 100)) 'XXXX'
start_mount "$copy" "$mnt"
grep -q -a "this is what lies in the disk" "$mnt/root.raw" || fail "the good disk is not readable"
if cat "$mnt/bad.raw" >/dev/null 2>&1; then
    fail "the damaged disk can be read"
fi
stop_mount "$mnt"

status=0
vmc check "$copy" >/dev/null 2>"$work/stderr" || status=$?
[[ $status -ne 0 ]] || fail "check finds nothing wrong with a damaged disk"
[[ $status -eq $exit_corrupt ]] || fail "check of a damaged disk: exit code $status"
rm -rf "$copy"

# --- keys

step "without its provider a VM is locked, and nothing of it can be read"
mkdir "$work/other"
"$VMCRYPTFS" --config "$work/other/config.toml" provider add native elsewhere
locked_by() {
    local said=$1 status=0
    mounts+=("$mnt")
    "$VMCRYPTFS" --config "$work/other/config.toml" mount --log-file "$work/mount.log" "$vm" "$mnt" >/dev/null 2>"$work/stderr" </dev/null || status=$?
    if [[ $status -eq 0 ]]; then
        must_fail 'Required key not available' cat "$mnt/root.raw"
        stop_mount "$mnt"
    else
        [[ $status -eq $exit_key_unavailable ]] || fail "exit code $status: $(cat "$work/stderr")"
        grep -q -i "$said" "$work/stderr" || fail "expected /$said/, it said: $(cat "$work/stderr")"
    fi
}
locked_by 'local'

step "a provider of the right name with another key does not open it either"
"$VMCRYPTFS" --config "$work/other/config.toml" provider add native local
locked_by 'local'

step "and after all that the disk is what it was"
start_mount "$vm" "$mnt"
grep -q -a "this is what lies in the disk" "$mnt/root.raw" || fail "the disk is not readable"
stop_mount "$mnt"
