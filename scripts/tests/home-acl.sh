#!/usr/bin/env bash
# POSIX ACLs in a VM's home are those of the file system beneath: the same commands give the same modes, ACLs and refusals on
# ext4 and xfs and in a mount on top of them. Where there are none beneath, there are none in the mount.
set -euo pipefail
# shellcheck source=scripts/requirements.sh
source "$(dirname "$0")/../requirements.sh"
# shellcheck source=scripts/tests/mounts.sh
source "$(dirname "$0")/mounts.sh"

if [[ $(id -u) -ne 0 ]]; then
    echo "this test mounts file systems and takes the part of other users, which needs root" >&2
    exit 77
fi

mnt=$work/mnt
below=$work/below
vm=$below/web01
# Users and groups that are nobody on this machine.
ann=41001 bob=41002 team=41003

# Called by the clean-up of mounts.sh, after the mounts on top of it are gone.
# shellcheck disable=SC2317
clean_up_more() {
    ! is_mounted "$below" || umount "$below" || umount -l "$below"
}

# as USER GROUPS COMMAND...
as() {
    local user=$1 groups=$2
    shift 2
    setpriv --reuid "$user" --regid "$user" --groups "$groups" "$@"
}

# Commands of all that has to do with ACLs, in the folder that they are started in. What they print is the same everywhere.
acts() {
    local mask name
    umask 022
    mkdir bare default
    setfacl -d -m "u:$ann:rwx,g:$team:r-x" default
    for mask in 000 022 077; do
        for folder in bare default; do
            (
                umask "$mask"
                mkdir "$folder/$mask"
                echo text >"$folder/$mask/file"
                echo text >"$folder/$mask/disk.raw"
                mkfifo "$folder/$mask/fifo"
                mkdir -m 711 "$folder/$mask/dir"
                /usr/bin/python3 - "$folder/$mask" <<'END'
import os, socket, sys
os.chdir(sys.argv[1])
for mode in (0o400, 0o640, 0o4755, 0o2770):
    os.close(os.open(f"made-{mode:o}", os.O_CREAT | os.O_WRONLY, mode))
    os.mkdir(f"dir-{mode:o}", mode)
    os.mknod(f"node-{mode:o}", mode)
socket.socket(socket.AF_UNIX).bind("socket")
END
                ln -s file "$folder/$mask/link"
                install -m 640 /etc/passwd "$folder/$mask/installed"
                mkdir -p "$folder/$mask/deep/er"
            )
        done
    done

    step "masks follow modes and back"
    for name in bare/022/file bare/022/dir bare/022/disk.raw bare/022/fifo; do
        setfacl -m "u:$ann:rwx,g:$team:r-x" "$name"
        chmod g-w "$name"
        cp -pr "$name" "$name.copy"
        chmod 4707 "$name"
        setfacl -m "m::rw-" "$name.copy"
        chown "$ann:$team" "$name"
    done
    setfacl -n -m "u:$bob:rwx" bare/022/file
    setfacl -x "u:$ann" bare/022/dir
    setfacl -b bare/022/dir.copy
    setfacl -k default/077
    mv default/022/file bare/moved
    cp default/022/made-640 bare/copied
    printf more >>default/000/made-4755
    ! setfacl -d -m "u:$ann:r" bare/022/file 2>/dev/null || echo "a file got a default ACL"
    # More than fit into an inode of ext4.
    seq -f "u:%g:r--" 50001 50100 | setfacl -M - bare/copied

    step "the set-group-id bit"
    for name in member stranger; do
        mkdir "sgid-$name"
        chown "$ann:$team" "sgid-$name"
        chmod 2770 "sgid-$name"
        cp -pr "sgid-$name" "sgid-$name.chmod"
    done
    as "$ann" "$team" setfacl -m "u:$bob:rwx" sgid-member
    as "$ann" "$bob" setfacl -m "u:$bob:rwx" sgid-stranger
    as "$ann" "$team" chmod 2750 sgid-member.chmod
    as "$ann" "$bob" chmod 2750 sgid-stranger.chmod
    as "$ann" "$team" sh -c 'umask 077; mkdir sgid-member/dir; echo x >sgid-member/file'
    setfacl -d -m "u:$bob:rwx" sgid-member
    as "$ann" "$team" sh -c 'umask 077; mkdir sgid-member/later; echo x >sgid-member/later/file; chmod 2777 sgid-member/later'

    step "who is admitted"
    mkdir -p doors/room
    for name in file disk.raw; do
        echo text >"doors/$name"
        chmod 600 "doors/$name"
    done
    echo text >doors/room/file
    chmod 700 doors/room
    who
    setfacl -m "u:$ann:r" doors/file doors/disk.raw
    setfacl -m "u:$ann:x" doors/room
    who
    setfacl -m "u:$ann:rw,g:$team:r" doors/file doors/disk.raw
    setfacl -m "u:$ann:rwx,g:$team:r" doors/room
    who
    setfacl -m "u:$ann:-" doors/file
    chmod 644 doors/disk.raw
    chmod 755 doors/room
    who
    chown "$bob" doors/file
    setfacl -m "u::-,g::-,m::rwx,o::rwx" doors/file
    who
    ! as "$ann" "$team" setfacl -m "u:$ann:rwx" doors/file 2>/dev/null || echo "not the owner's ACL"
    as "$bob" "$bob" setfacl -b doors/file
    who
}

# What users can do: each line of it is `user groups: allowed refused...`.
who() {
    local user groups act said
    for user in "$ann" "$bob"; do
        for groups in "$team" "$user"; do
            said=
            for act in 'cat doors/file' 'echo x >>doors/file' 'cat doors/disk.raw' 'echo x >>doors/disk.raw' \
                'ls doors/room' 'cat doors/room/file' 'mkdir doors/room/new && rmdir doors/room/new' \
                'mv doors/room/file doors/room/other && mv doors/room/other doors/room/file'; do
                if as "$user" "$groups" sh -c "$act" >/dev/null 2>&1; then said+=" +"; else said+=" -"; fi
            done
            echo "$user $groups:$said"
        done
    done
}

# Modes, owners and ACLs of all below a folder.
state() {
    (
        cd "$1"
        find . -mindepth 1 -printf '%p %y %m %U %G\n' | sort
        find . -mindepth 1 ! -type l -print0 | sort -z | xargs -0 getfacl -n
    )
}

same() {
    cmp -s "$2" "$3" || fail "$1: $(diff "$2" "$3" | head -n 30)"
}

make_below() {
    rm -f "$work/medium"
    truncate -s 512M "$work/medium"
    case $1 in
        ext4) mkfs.ext4 -q -F "$work/medium" ;;
        xfs) mkfs.xfs -q -f "$work/medium" ;;
    esac
    if ! mount -t "$1" -o "${2:-loop}" "$work/medium" "$below"; then
        echo "this test mounts a file system of type $1" >&2
        exit 77
    fi
    vmc create "$vm"
    chmod 755 "$work" "$below" "$vm"
    mkdir "$below/plain"
}

mkdir -p "$below" "$work/config"
vmc provider add native local
for kind in ext4 xfs; do
    step "$kind"
    make_below "$kind"
    start_mount "$vm" "$mnt" -o allow_other
    (cd "$below/plain" && acts) >"$work/plain.said" 2>&1 || fail "beneath: $(tail -n 3 "$work/plain.said")"
    mkdir "$mnt/ours"
    (cd "$mnt/ours" && acts) >"$work/ours.said" 2>&1 || fail "in the mount: $(tail -n 3 "$work/ours.said")"
    same "what commands said" "$work/plain.said" "$work/ours.said"
    for sign in + -; do
        grep -q -F -e " $sign" "$work/ours.said" || fail "nobody was admitted, or nobody refused: $(cat "$work/ours.said")"
    done
    state "$below/plain" >"$work/plain.state"
    state "$mnt/ours" >"$work/ours.state"
    same "in the mount" "$work/plain.state" "$work/ours.state"
    [[ $(grep -c "^user:$ann:" "$work/ours.state") -gt 20 ]] || fail "hardly an ACL: $(cat "$work/ours.state")"
    state "$vm/ours" >"$work/vm.state"
    same "in the backing folder" "$work/plain.state" "$work/vm.state"

    stop_mount "$mnt"
    start_mount "$vm" "$mnt" -o allow_other
    state "$mnt/ours" >"$work/ours.state"
    same "after a remount" "$work/plain.state" "$work/ours.state"
    (cd "$below/plain" && who) >"$work/plain.said"
    (cd "$mnt/ours" && who) >"$work/ours.said"
    same "who is admitted after a remount" "$work/plain.said" "$work/ours.said"

    step "$kind: rsync and tar carry them there and back"
    find "$below/plain" -type s -delete # tar keeps no sockets
    state "$below/plain" >"$work/plain.state"
    rsync -aHAX "$below/plain/" "$mnt/rsync/"
    rsync -aHAX "$mnt/rsync/" "$below/rsync/"
    mkdir "$mnt/tar" "$below/tar"
    tar -C "$below/plain" --acls --numeric-owner -cf - . | tar -C "$mnt/tar" --acls --numeric-owner -xf -
    tar -C "$mnt/tar" --acls --numeric-owner -cf - . | tar -C "$below/tar" --acls --numeric-owner -xf -
    for copy in "$mnt/rsync" "$below/rsync" "$mnt/tar" "$below/tar"; do
        state "$copy" >"$work/copy.state"
        same "$copy" "$work/plain.state" "$work/copy.state"
    done
    stop_mount "$mnt"
    vmc check "$vm" >/dev/null
    umount "$below"
done

step "a file system without ACLs"
make_below ramfs mode=755
must_fail 'not supported' setfacl -m "u:$ann:r" "$below/plain"
start_mount "$vm" "$mnt" -o allow_other
(umask 027 && echo text >"$mnt/file" && mkdir "$mnt/dir")
[[ $(stat -c %a "$mnt/file" "$mnt/dir" | xargs) == "640 750" ]] || fail "the umask: $(stat -c %a "$mnt/file" "$mnt/dir")"
must_fail 'not supported' setfacl -m "u:$ann:r" "$mnt/file"
must_fail 'not supported' setfacl -d -m "u:$ann:r" "$mnt/dir"
must_fail 'not supported' getfattr -n system.posix_acl_access "$mnt/file"
getfacl -n --omit-header "$mnt/file" 2>/dev/null | grep -q '^group::r--$' || fail "getfacl does not tell the mode"
chown "$bob:$team" "$mnt/file"
cd "$mnt" # the way to it is not open to others
as "$ann" "$team" cat file >/dev/null || fail "the mode does not admit the group"
! as "$ann" "$ann" cat file 2>/dev/null || fail "the mode admits everyone"
cd /
stop_mount "$mnt"
umount "$below"
