#!/usr/bin/env bash
# The second implementation of docs/FORMAT.md reads what the mount wrote, and the mount reads what it wrote.
set -euo pipefail
# shellcheck source=scripts/tests/mounts.sh
source "$(dirname "$0")/mounts.sh"

mnt=$work/mnt
primary_key=$work/config/keys/local.key

vectors() {
    "$scripts/vectors.py" "$@"
}

# The key id of DISK's first slot, wherever the JSON of `info` keeps it.
key_id_of() {
    vmc info --json "$1" | /usr/bin/python3 -c '
import json, sys
def find(value):
    if isinstance(value, dict):
        if isinstance(value.get("key_id"), str):
            return value["key_id"]
        value = list(value.values())
    if isinstance(value, list):
        return next((found for found in map(find, value) if found), None)
key_id = find(json.load(sys.stdin))
print(key_id or sys.exit("info --json names no key_id"))'
}

# Writes the same to both files: pieces of any place and length, holes, and lengths that are multiples of nothing.
scribble() {
    /usr/bin/python3 - "$@" <<'PYTHON'
import os, random, sys
seed, length, *paths = sys.argv[1:]
chance, length = random.Random(int(seed)), int(length)
files = [os.open(path, os.O_RDWR | os.O_CREAT) for path in paths]
def both(change):
    for file in files:
        change(file)
both(lambda file: os.ftruncate(file, length))
for _ in range(300):
    at = chance.randrange(length)
    piece = chance.randbytes(min(chance.choice((1, 17, 512, 4096, 5000, 100000)), length - at))
    both(lambda file: os.pwrite(file, piece, at))
for shorter in (length * 3 // 4 + 5, length // 2 + 1):
    both(lambda file: os.ftruncate(file, shorter))
    both(lambda file: os.ftruncate(file, length))
both(lambda file: os.pwrite(file, b"the end", length - 7))
both(os.fsync)
PYTHON
}

make_vm
for sector_size in 512 4096; do
    vmc create-disk "$vm/s$sector_size.raw" --size 1M --sector-size "$sector_size"
done

owner=$(vmc info --json "$vm" | /usr/bin/python3 -c 'import json, sys; print(next(info["uuid"] for info in json.load(sys.stdin) if info["kind"] == "home"))')

step "the mount writes"
start_mount "$vm" "$mnt"
# A length that is a multiple of 16, and one that is not.
scribble 1 $((5 * 1048576)) "$mnt/s512.raw" "$work/s512.plain"
scribble 2 $((5 * 1048576 + 1003)) "$mnt/s4096.raw" "$work/s4096.plain"
for sector_size in 512 4096; do
    cmp "$mnt/s$sector_size.raw" "$work/s$sector_size.plain"
done
stop_mount "$mnt"

for sector_size in 512 4096; do
    step "the oracle reads (sectors of $sector_size bytes)"
    disk=$vm/s$sector_size.raw
    key_id=$(key_id_of "$disk")
    kek=$(vectors native-kek "$primary_key" "$key_id")
    vectors info "$disk" --kek-hex "$kek" | grep -q '^authentic: yes$' || fail "the oracle does not accept the header"
    vectors decrypt "$disk" --kek-hex "$kek" --out "$work/decrypted"
    cmp "$work/decrypted" "$work/s$sector_size.plain"
    must_fail . vectors decrypt "$disk" --kek-hex "${kek:2}00"

    step "the oracle writes (sectors of $sector_size bytes)"
    vectors encrypt "$work/s$sector_size.plain" "$vm/oracle$sector_size.raw" --kek-hex "$kek" \
        --provider local --key-id "$key_id" --sector-size "$sector_size" --owner "$owner"
    vmc adopt "$vm/oracle$sector_size.raw" >/dev/null # the oracle adds to no list
done

step "the mount reads what the oracle wrote, and writes to it"
start_mount "$vm" "$mnt"
for sector_size in 512 4096; do
    cmp "$mnt/oracle$sector_size.raw" "$work/s$sector_size.plain"
    scribble 3 $((3 * 1048576 + 77)) "$mnt/oracle$sector_size.raw" "$work/s$sector_size.plain"
done
stop_mount "$mnt"
for sector_size in 512 4096; do
    disk=$vm/oracle$sector_size.raw
    kek=$(vectors native-kek "$primary_key" "$(key_id_of "$disk")")
    vectors decrypt "$disk" --kek-hex "$kek" --out "$work/decrypted"
    cmp "$work/decrypted" "$work/s$sector_size.plain"
    vmc check "$disk"
done

step "the oracle reads the home that the mount wrote"
start_mount "$vm" "$mnt"
scribble 4 $((700 * 1024 + 9)) "$mnt/nvram" "$work/nvram.plain"
scribble 5 $((700 * 1024 + 9)) "$mnt/nvram" "$work/nvram.plain"
mkdir "$mnt/folder"
ln -s "../some/where else" "$mnt/folder/link"
/usr/bin/python3 -c 'import os, sys; [os.setxattr(path, "user.note", b"of " + os.fsencode(os.path.basename(path))) for path in sys.argv[1:]]' \
    "$mnt/nvram" "$mnt/folder"
stop_mount "$mnt"
kek=$(vectors native-kek "$primary_key" "$(key_id_of "$vm")")
home_read() { vectors home-read "$vm/vmcryptfs.home" "$@" --kek-hex "$kek"; }
home_read "$vm/nvram" --out "$work/decrypted"
cmp "$work/decrypted" "$work/nvram.plain"
[[ $(home_read "$vm/folder/link") == "../some/where else" ]] || fail "the oracle reads another target"
for name in nvram folder; do
    [[ $(home_read "$vm/$name" --xattr user.note) == "of $name" ]] || fail "the oracle reads another note of $name"
done
must_fail . vectors home-read "$vm/vmcryptfs.home" "$vm/nvram" --kek-hex "${kek:2}00"

step "the oracle opens a provider's backup"
echo 'six words that nobody will guess' >"$work/passphrase"
vmc provider backup local "$work/local.backup" --passphrase-file "$work/passphrase"
vectors native-backup "$work/local.backup" --passphrase-file "$work/passphrase" >"$work/opened"
# docs/FORMAT.md section 5: the key lies at 32 to 63 of the primary key file.
key=$(/usr/bin/python3 -c 'import sys; print(open(sys.argv[1], "rb").read()[32:64].hex())' "$primary_key")
grep -q -x "key: $key" "$work/opened" || fail "the backup holds another key than the provider"

step "the oracle reads what was rekeyed, by the new key alone, and its saved header"
disk=$vm/s4096.raw
former=$(vectors native-kek "$primary_key" "$(key_id_of "$disk")")
vmc rekey "$vm" >/dev/null
kek=$(vectors native-kek "$primary_key" "$(key_id_of "$disk")")
must_fail . vectors info "$disk" --kek-hex "$former"
vectors info "$disk" --kek-hex "$kek" | grep -q '^authentic: yes$' || fail "the oracle does not accept the new header"
vectors decrypt "$disk" --kek-hex "$kek" >/dev/null
vmc header backup "$disk" "$work/saved.header"
vectors saved-header "$work/saved.header" --kek-hex "$kek" | grep -q '^authentic: yes$' || fail "the saved header is not opened"
must_fail . vectors saved-header "$work/saved.header" --kek-hex "$former"
