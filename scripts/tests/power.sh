# Sourced by tests that cut the power of a file system beneath a mount: one on a loop device, at $below. After mounts.sh.
# shellcheck shell=bash

: "${work:?is not set: source mounts.sh first}"
below=$work/store

# Called by the clean-up of mounts.sh, after the mounts on top of it are gone.
# shellcheck disable=SC2317
clean_up_more() {
    ! is_mounted "$below" || as_root umount "$below" || as_root umount -l "$below"
}

mount_below() {
    as_root mount -o loop "$work/medium" "$below"
}

# make_medium ext4|xfs: an empty one, mounted and this user's.
make_medium() {
    rm -f "$work/medium"
    truncate -s 512M "$work/medium"
    case $1 in
        ext4) mkfs.ext4 -q -F "$work/medium" ;;
        xfs) mkfs.xfs -q -f "$work/medium" ;;
    esac
    mkdir -p "$below"
    if ! mount_below; then
        echo "this test mounts a file system from a loop device, which needs root and a loop device" >&2
        exit 77
    fi
    as_root chown "$(id -u):$(id -g)" "$below"
}

# EXT4_IOC_SHUTDOWN and XFS_IOC_GOINGDOWN are one number; 2 is: write nothing more, not even the journal.
cut_power() {
    touch "$work/record.power-fails"
    as_root python3 -c 'import fcntl, os, struct, sys
fcntl.ioctl(os.open(sys.argv[1], os.O_RDONLY), 0x8004587D, struct.pack("I", 2))' "$below"
}

# What a dead process had open is given back a moment after the process is gone: requests of its rings end by themselves.
unmount_below() {
    local try
    for try in {1..50}; do
        ! as_root umount "$below" 2>"$work/umount.said" || return 0
        sleep 0.1
    done
    fail "after $try tries: $(cat "$work/umount.said")"
}

# come_back MOUNTPOINT PID: what is there again after the power was cut. The mount's process is killed, not asked: what it had
# open is closed. The kernel needs a moment to end it, and the file system is busy until then.
come_back() {
    kill -KILL "$2"
    vmc umount "$1"
    wait_gone 10 || fail "the mount's process is there 10 s after it was killed"
    unmount_below
    mount_below
}
