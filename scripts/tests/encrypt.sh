#!/usr/bin/env bash
# VM folders as VMware and QEMU leave them are encrypted, shown, changed in part, and decrypted: the same bytes come back.
set -euo pipefail
# shellcheck source=scripts/requirements.sh
source "$(dirname "$0")/../requirements.sh"
# shellcheck source=scripts/tests/mounts.sh
source "$(dirname "$0")/mounts.sh"
# shellcheck source=scripts/tests/clear-folder.sh
source "$(dirname "$0")/clear-folder.sh"

mnt=$work/mnt
store=$work/store
small=$work/small
mkdir -p "$work/config" "$store" "$small"
vmc provider add native local

# Called by the clean-up of mounts.sh.
# shellcheck disable=SC2317
clean_up_more() {
    ! is_mounted "$small" || as_root umount "$small" || as_root umount -l "$small"
}

# plan FOLDER OPTION...: lines of `kind path` for what would be encrypted.
plan() {
    vmc encrypt "$@" --dry-run --json |
        /usr/bin/python3 -c 'import json, sys
for file in json.load(sys.stdin)["files"]:
    if file["action"] == "encrypt": print(file["kind"], file["path"])' | sort
}

# refused NAME EXIT-CODE PATTERN ARGUMENTS...: fails so, and changes nothing.
refused() {
    local name=$1 wanted=$2 pattern=$3 status=0 before
    shift 3
    before=$(find "$store" -printf '%p %s %T@ %i\n' | sort | sha256sum)
    vmc "$@" >"$work/said" 2>&1 || status=$?
    [[ $status -eq $wanted ]] || fail "$name: exit code $status, expected $wanted: $(cat "$work/said")"
    grep -q -i -E "$pattern" "$work/said" || fail "$name: expected /$pattern/, it said: $(cat "$work/said")"
    [[ $(find "$store" -printf '%p %s %T@ %i\n' | sort | sha256sum) == "$before" ]] || fail "$name: files changed"
}

# encrypted_disks VM_FOLDER: how many components of the kind disk `info` lists.
encrypted_disks() {
    vmc info "$1" | awk '$2 == "disk" { count++ } END { print count + 0 }'
}

step "layouts of VMware's and QEMU's disks"
marker=vmcryptfs-marker-$RANDOM$RANDOM
layout() {
    local folder=$1 format=$2 disk=$3 options=$4
    mkdir "$folder"
    qemu-img create -q -f "$format" ${options:+-o "$options"} "$folder/$disk" 24M
    # Patterns that no writer of zeros would leave, at both ends and across the extents' borders.
    qemu-io -f "$format" -c 'write -q -P 3 0 1M' -c 'write -q -P 4 11M 2M' -c 'write -q -P 5 23M 1M' "$folder/$disk"
    printf '.encoding = "UTF-8"\ndisplayName = "%s"\nscsi0:0.fileName = "%s"\n' "$marker" "$disk" >"$folder/web01.vmx"
    echo "$marker" >"$folder/vmware.log"
    head -c 8684 /dev/urandom >"$folder/web01.nvram"
    fingerprint "$folder" >"$folder.expected"
}
layout "$store/flat" vmdk web01.vmdk subformat=monolithicFlat
layout "$store/split" vmdk web01.vmdk subformat=twoGbMaxExtentSparse
layout "$store/splitflat" vmdk web01.vmdk subformat=twoGbMaxExtentFlat
layout "$store/sparse" vmdk web01.vmdk subformat=monolithicSparse
layout "$store/qcow2" qcow2 root ''
layout "$store/raw" raw disk-without-a-name ''
expect_plan() {
    [[ $(plan "$store/$1" | grep '^disk') == "$2" ]] || fail "$1: disks are $(plan "$store/$1"), expected $2"
}
expect_plan flat 'disk web01-flat.vmdk'
expect_plan split 'disk web01-s001.vmdk'
expect_plan splitflat 'disk web01-f001.vmdk'
expect_plan sparse 'disk web01.vmdk'
expect_plan qcow2 'disk root'
expect_plan raw 'disk disk-without-a-name'
for name in flat split splitflat sparse qcow2 raw; do
    before=$(allocated "$store/$name")
    vmc encrypt "$store/$name" >"$work/said" 2>&1 || fail "$name: $(cat "$work/said")"
    after=$(allocated "$store/$name")
    ((after < before + 400000)) || fail "$name took $before bytes, and encrypted $after"
    [[ $(occurrences "$marker" "$store/$name") -eq 0 ]] || fail "$name: plaintext shows"
    start_mount "$store/$name" "$mnt"
    fingerprint "$mnt" >"$work/found"
    must_equal "$name in the mount" "$store/$name.expected" "$work/found"
    [[ $(occurrences "$marker" "$mnt") -gt 0 ]] || fail "$name: the marker is nowhere: the check above proves nothing"
    stop_mount "$mnt"
    vmc check "$store/$name" >/dev/null
done
vmc info "$store" >"$work/said"

step "and back"
for name in flat split splitflat sparse qcow2 raw; do
    vmc decrypt "$store/$name" --all >"$work/said" 2>&1 || fail "$name: $(cat "$work/said")"
    fingerprint "$store/$name" >"$work/found"
    must_equal "$name" "$store/$name.expected" "$work/found"
done

step "everything else that a folder can hold"
small_folder "$store/web01"
truncate -s 200M "$store/web01/thin.raw"
printf end | dd of="$store/web01/thin.raw" bs=1 seek=150M conv=notrunc status=none
fingerprint "$store/web01" >"$work/expected"
vmc encrypt "$store/web01" --overwrite >/dev/null 2>"$work/said"
grep -q 'were overwritten' "$work/said" || fail "nothing is said of what remains: $(cat "$work/said")"
start_mount "$store/web01" "$mnt"
fingerprint "$mnt" >"$work/found"
must_equal "the mount" "$work/expected" "$work/found"
stop_mount "$mnt"
bytes=$(allocated "$store/web01/thin.raw")
((bytes < 200000)) || fail "a thin disk takes $bytes bytes"

step "disks come first, the home last"
refused "a home with disks" 7 'decrypted after all its disks' decrypt "$store/web01" --home
vmc decrypt "$store/web01" --disk thin.raw >/dev/null
[[ $(encrypted_disks "$store/web01") -eq 2 ]] || fail "not one disk less: $(vmc info "$store/web01")"
# What a mount does with a clear disk: it is listed, and not shown.
start_mount "$store/web01" "$mnt"
[[ -e $mnt/thin.raw ]] || fail "a clear disk is not listed"
# It begins with zeros, as a home file does that lost its header in a crash: that must not make it writable.
must_fail 'Input/output error' dd if="$mnt/thin.raw" of=/dev/null bs=1M count=1
must_fail 'Input/output error' dd if=/dev/zero of="$mnt/thin.raw" bs=512 count=1 conv=notrunc
must_fail 'Input/output error' truncate -s 1M "$mnt/thin.raw"
refused "a mounted home" 6 'mounted' decrypt "$store/web01" --all
exec 3<>"$mnt/root.raw"
refused "a disk that is open in a mount" 6 'in use' decrypt "$store/web01" --disk root.raw
exec 3>&-
refused "the home of a mounted folder, by its mountpoint" 6 "$store/web01 is mounted on $mnt" decrypt "$mnt" --all
[[ $(plan "$mnt") == 'disk thin.raw' ]] || fail "by the mountpoint, expected thin.raw alone: $(plan "$mnt")"
stop_mount "$mnt"
[[ $(plan "$store/web01") == 'disk thin.raw' ]] || fail "expected thin.raw alone: $(plan "$store/web01")"
vmc encrypt "$store/web01" --disk thin.raw >/dev/null 2>&1
vmc decrypt "$store/web01" --all >/dev/null
fingerprint "$store/web01" >"$work/found"
must_equal "all of it" "$work/expected" "$work/found"

step "chosen disks alone, by VMware's name of them"
vmc encrypt "$store/flat" --disk web01.vmdk >/dev/null 2>&1
[[ $(encrypted_disks "$store/flat") -eq 1 ]] || fail "the extent is not encrypted: $(vmc info "$store/flat")"
mkdir "$store/two"
truncate -s 2M "$store/two/a.raw" "$store/two/b.raw"
vmc encrypt "$store/two" --disk b.raw >/dev/null 2>&1
[[ $(plan "$store/two") == 'disk a.raw' ]] || fail "a.raw should be left: $(plan "$store/two")"

step "refusals"
refused "a disk instead of a folder" 7 'encrypt .*--disk' encrypt "$store/two/a.raw"
refused "a disk that is not there" 8 'no disk c.raw' encrypt "$store/two" --disk c.raw
refused "a folder in the clear" 2 'not encrypted' decrypt "$store/raw" --all
refused "an unknown provider" 8 'nobody' encrypt "$store/raw" --provider nobody
cp "$store/two/b.raw" "$store/raw/stray.raw"
refused "an encrypted disk in a clear folder" 7 'stray.raw is an encrypted disk' encrypt "$store/raw"
rm "$store/raw/stray.raw"
exec 4<>"$store/raw/disk-without-a-name"
# As QEMU locks its images: a byte of them, for reading.
/usr/bin/python3 -c 'import fcntl, struct
fcntl.fcntl(4, 37, struct.pack("hhqqi4x", fcntl.F_RDLCK, 0, 100, 1, 0))'
refused "a disk that a guest runs from" 6 'in use' encrypt "$store/raw"
exec 4>&-
vmc encrypt "$store/raw" >/dev/null 2>&1 || fail "encrypt does not go on behind what was in use"

step "too little space is refused before anything is touched"
if as_root mount -t tmpfs -o "size=40M,uid=$(id -u),gid=$(id -g),mode=700" vmc-small "$small"; then
    mkdir "$small/web01"
    head -c 22M /dev/urandom >"$small/web01/root.raw"
    echo settings >"$small/web01/web01.vmx"
    before=$(fingerprint "$small/web01")
    must_fail 'not enough space' vmc encrypt "$small/web01"
    [[ $(fingerprint "$small/web01") == "$before" ]] || fail "something was touched"
    # With room for the largest file beside itself, the whole folder goes, though not twice its space is there.
    truncate -s 12M "$small/web01/root.raw"
    head -c 12M /dev/urandom >"$small/web01/data.raw"
    before=$(fingerprint "$small/web01")
    vmc encrypt "$small/web01" >/dev/null 2>&1
    vmc decrypt "$small/web01" --all >/dev/null
    [[ $(fingerprint "$small/web01") == "$before" ]] || fail "something else came back"
else
    echo "no tmpfs can be mounted here: left out"
fi
