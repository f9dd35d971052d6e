#!/usr/bin/env bash
# Programs that work in a VM folder as in any other: git, tar, rsync, cp, SQLite. rsync runs without -A: there are no ACLs.
#
#     SQLITE_SECONDS    how long each SQLite load lasts (5)
set -euo pipefail
# shellcheck source=scripts/tests/mounts.sh
source "$(dirname "$0")/mounts.sh"

mnt=$work/mnt
tree=$work/tree
repository=$scripts/..

make_vm
start_mount "$vm" "$mnt"

step "git: clone, fsck, commit, gc"
# A repository of its own, in case this source tree came as an archive.
git init -q "$work/origin"
cp -r "$repository/src" "$repository/docs" "$repository/scripts" "$repository/tests" "$work/origin/"
in_git() { git -c user.name=tests -c user.email=tests@localhost -c gc.auto=0 "$@"; }
for turn in 1 2 3; do
    echo "$turn" >"$work/origin/turn"
    in_git -C "$work/origin" add -A
    in_git -C "$work/origin" commit -q -m "turn $turn"
done
git clone -q --no-local "$work/origin" "$mnt/clone"
git -C "$mnt/clone" fsck --full --strict
[[ -z $(git -C "$mnt/clone" status --porcelain) ]] || fail "a fresh clone differs from its index"
in_git -C "$mnt/clone" rm -q -r docs
in_git -C "$mnt/clone" commit -q -m "without docs"
in_git -C "$mnt/clone" repack -q -a -d
in_git -C "$mnt/clone" gc -q --prune=now
git -C "$mnt/clone" fsck --full --strict
git clone -q --no-local "$mnt/clone" "$work/back"
git -C "$work/back" fsck --full --strict
[[ $(git -C "$work/back" rev-parse HEAD) == $(git -C "$mnt/clone" rev-parse HEAD) ]] || fail "the clones differ"

# A tree with all that a tree can have.
mkdir -p "$tree/deep/er" "$tree/empty"
cp -r "$repository/src" "$tree/src"
head -c 3000001 /dev/urandom >"$tree/deep/random"
truncate -s 20M "$tree/deep/hole"
echo "in the midst" | dd of="$tree/deep/hole" bs=1 seek=10000000 conv=notrunc status=none
ln -s ../deep/random "$tree/deep/er/link"
ln -s nowhere "$tree/dangling"
ln "$tree/deep/random" "$tree/hard"
mkfifo "$tree/fifo"
chmod 4711 "$tree/hard"
chmod 1770 "$tree/empty"
touch -d '2001-02-03 04:05:06.789' "$tree/deep/er" "$tree/deep/hole"
touch -h -d '1999-01-01' "$tree/dangling"
setfattr -n user.note -v 'of a file' "$tree/hard"
setfattr -n user.note -v 'of a folder' "$tree/empty"
[[ $(id -u) -ne 0 ]] || chown -h 1234:5678 "$tree/dangling" "$tree/empty"

# same FOLDER FOLDER: nothing is left to do for an rsync that compares content, and holes are holes.
same() {
    local differences
    differences=$(rsync -aHAX --checksum --delete --dry-run --itemize-changes "$1/" "$2/")
    [[ -z $differences ]] || fail "$2 differs from $1: $differences"
    diff -r --no-dereference "$1/src" "$2/src"
}

step "rsync there and back"
rsync -aHAX --sparse "$tree/" "$mnt/rsync/"
same "$tree" "$mnt/rsync"
rsync -aHAX --sparse "$mnt/rsync/" "$work/rsync/"
same "$tree" "$work/rsync"
[[ $(allocated "$mnt/rsync/deep/hole") -lt 1048576 ]] || fail "a hole takes $(allocated "$mnt/rsync/deep/hole") bytes"

step "tar there and back"
tar_options=(--xattrs --xattrs-include='user.*' --sparse --numeric-owner --same-owner --same-permissions)
[[ $(id -u) -eq 0 ]] || tar_options=(--xattrs --xattrs-include='user.*' --sparse --same-permissions)
mkdir "$mnt/tar" "$work/tar"
tar -C "$tree" "${tar_options[@]}" -cf - . | tar -C "$mnt/tar" "${tar_options[@]}" -xf -
same "$tree" "$mnt/tar"
tar -C "$mnt/tar" "${tar_options[@]}" -cf "$mnt/tree.tar" .
tar -C "$work/tar" "${tar_options[@]}" -xf "$mnt/tree.tar"
same "$tree" "$work/tar"

step "cp -a there and back"
cp -a "$tree" "$mnt/cp"
same "$tree" "$mnt/cp"
cp -a "$mnt/cp" "$work/cp"
same "$tree" "$work/cp"

step "after a remount all of it is the same"
stop_mount "$mnt"
start_mount "$vm" "$mnt"
for copy in rsync tar cp; do same "$tree" "$mnt/$copy"; done
git -C "$mnt/clone" fsck --full --strict

for journal in wal delete truncate; do
    step "SQLite under load, journal_mode=$journal"
    /usr/bin/python3 "$scripts/tests/sqlite-load.py" "$mnt/$journal.db" "$journal" "${SQLITE_SECONDS:-5}"
done
stop_mount "$mnt"
start_mount "$vm" "$mnt"
for journal in wal delete truncate; do
    /usr/bin/python3 "$scripts/tests/sqlite-load.py" "$mnt/$journal.db" "$journal" 0
done

step "nothing of it shows beneath"
for text in 'in the midst' 'of a folder' 'turn 3' 'SQLite format'; do
    [[ $(occurrences "$text" "$vm") -eq 0 ]] || fail "'$text' shows in the backing folder"
done
[[ $(occurrences 'SQLite format' "$mnt") -gt 0 ]] || fail "grep finds nothing in the mount: the check above proves nothing"
stop_mount "$mnt"
vmc check "$vm"
