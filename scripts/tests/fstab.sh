#!/usr/bin/env bash
# Files of several users through mounts that mount(8) makes: by its type, by fstab, by `mount -a`, remounted, bound elsewhere.
#
# Other users: each of two reads and writes what the permissions allow.
set -euo pipefail
# shellcheck source=scripts/tests/mounts.sh
source "$(dirname "$0")/mounts.sh"

if [[ $(id -u) -ne 0 ]]; then
    echo "only root has a table of mounts" >&2
    exit 77
fi
if [[ -z ${IN_PRIVATE_MOUNTS:-} ]]; then
    # The helper and the table are this test's, in a mount namespace of its own.
    let_others_in
    in_private_mounts /etc env IN_PRIVATE_MOUNTS=1 TMPDIR="$work" "$0"
    exit
fi

let_others_in
mnt=$work/mnt
store=$work/store
shared=$mnt/web01/shared
mkdir "$mnt" "$work/upper" "$work/scratch"
mount -t overlay -o "lowerdir=/usr/sbin,upperdir=$work/upper,workdir=$work/scratch" overlay /usr/sbin || {
    echo "no overlay in $work: mount(8) does not find the helper" >&2
    exit 77
}
ln -sf "$VMCRYPTFS" /usr/sbin/mount.fuse.vmcryptfs
touch "$work/fstab"
mount --bind "$work/fstab" /etc/fstab
mounts+=("$mnt")
options=allow_other,config=$config,log-file=$work/mount.log,wait=20s

# by USER COMMAND: in the shell of a user without any rights of root's.
by() {
    setpriv --reuid="$1" --regid="$1" --clear-groups --inh-caps=-all sh -c "$2"
}

# table OPTION...: the table has the mount with these options, and no other.
table() {
    local more
    more=$(printf ',%s' "$@")
    echo "$store $mnt fuse.vmcryptfs $options,nofail,_netdev$more 0 0" >"$work/fstab"
}

# has_options WORD...: the mount is there once, with each of these words.
has_options() {
    local found word
    found=$(findmnt --noheadings --output OPTIONS "$mnt")
    [[ $(grep -c -F " $mnt " /proc/self/mounts) -eq 1 ]] || fail "it is not mounted once: $found"
    for word in nosuid nodev "$@"; do
        [[ ,$found, == *,$word,* ]] || fail "expected $word, found $found"
    done
}

make_vm
vmc create-disk "$vm/root.raw" --size 8M
chmod 711 "$store" "$vm"

step "mount -t: two users write, and read what they may"
mount -t fuse.vmcryptfs -o "$options,relatime" "$store" "$mnt"
has_options rw
mkdir -m 1777 "$shared"
for user in 41001 41002; do
    by "$user" "echo of $user >$shared/$user && chmod 640 $shared/$user"
    [[ $(stat -c %u:%g "$shared/$user") == "$user:$user" ]] || fail "$shared/$user is not its maker's"
done
must_fail 'Permission denied' by 41002 "cat $shared/41001"
must_fail 'not permitted' by 41002 "rm -f $shared/41001"
by 41001 "echo more >>$shared/41001 && mv $shared/41001 $shared/renamed && head -c 3M /dev/urandom >$shared/big"
dd if=/dev/urandom of="$mnt/web01/root.raw" bs=1M count=4 conv=notrunc,fsync status=none
sums=$(cd "$mnt/web01" && sha256sum shared/* root.raw)
umount "$mnt"

# All is as it was left.
is_same() {
    [[ $(cd "$mnt/web01" && sha256sum shared/renamed shared/41002 shared/big root.raw | sort) == $(sort <<<"$sums") ]] ||
        fail "not what was written"
    [[ $(by 41001 "cat $shared/renamed") == "of 41001"$'\n'more ]] || fail "its maker does not read it"
}

step "by the table: mount MOUNTPOINT, and mount -a, which does not mount it twice"
table rw
mount "$mnt"
is_same
mount -a
has_options rw
must_fail 'already' mount "$mnt"
umount "$mnt"
mount -a
is_same
umount -a -t fuse.vmcryptfs
! is_mounted "$mnt" || fail "umount -a left it"

step "remounted: read-only once no writer is left, as the command says that the helper names"
mount "$mnt"
exec 7>>"$mnt/web01/open"
must_fail busy mount -i -o remount,nosuid,nodev,ro "$mnt"
echo still >&7
exec 7>&-
must_fail 'mount -i -o remount,nosuid,nodev,' mount -o remount,ro "$mnt"
mount -i -o remount,nosuid,nodev,ro "$mnt"
has_options ro
must_fail 'Read-only' by 41001 "echo x >>$shared/renamed"
is_same
mount -i -o remount,nosuid,nodev,rw,noexec "$mnt"
has_options rw noexec
by 41001 "cp /bin/true $shared/true"
must_fail 'Permission denied' by 41001 "$shared/true"
[[ $(cat "$mnt/web01/open") == still ]] || fail "what an open file got is lost"
umount "$mnt"

step "a mount that began read-only stays that, whatever the kernel is told"
table ro
mount -a
has_options ro
is_same
mount -i -o remount,nosuid,nodev,rw "$mnt"
for change in "echo x >>$shared/renamed" ": >$shared/new" "mv $shared/renamed $shared/other" "rm $shared/renamed" \
    "mkdir $shared/folder" "ln $shared/renamed $shared/other" "ln -s x $shared/link" "chmod 600 $shared/renamed" \
    "touch $shared/renamed" "truncate --size 1 $shared/renamed"; do
    must_fail 'Read-only' by 41001 "$change"
done
must_fail 'Read-only' dd if=/dev/zero of="$mnt/web01/root.raw" bs=4k count=1 conv=notrunc status=none
is_same
umount "$mnt"

step "bound elsewhere: it goes on there when the first place is gone"
table rw
mount "$mnt"
mkdir "$work/bound"
mount --bind "$shared" "$work/bound"
umount "$mnt"
by 41002 "echo there >$work/bound/there && cat $work/bound/there" >/dev/null
umount "$work/bound"
mount "$mnt"
[[ $(cat "$shared/there") == there ]] || fail "what was written by the other place is lost"
is_same
umount "$mnt"
vmc check "$vm" >/dev/null
