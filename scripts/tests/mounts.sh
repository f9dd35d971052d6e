# Sourced by the tests of this folder: a private configuration, a folder to work in, and mounts that are gone afterwards.
#
# VMCRYPTFS names the binary, MOUNT_OPTIONS what all mounts are made with (--backing-io=direct). Whatever a test starts has
# $work in its command line, so that it can be found and ended by its own pid, and nothing else on the machine is touched.
# shellcheck shell=bash

: "${VMCRYPTFS:?is not set: it must be the path of the vmcryptfs binary, or use scripts/tests/run}"
VMCRYPTFS=$(readlink -f "$VMCRYPTFS")
scripts=$(readlink -f "$(dirname "${BASH_SOURCE[0]}")/..")
PATH="$PATH:/usr/sbin:/sbin"
# shellcheck source=scripts/processes.sh
source "$scripts/processes.sh"

# /var/tmp and not /tmp, which is memory on newer systems. Short, since the path of a control socket is limited.
work=$(mktemp -d "${TMPDIR:-/var/tmp}/vmc.XXXXXX")
work=$(readlink -f "$work")
config=$work/config/config.toml
# Events go to a file of the test, and not to the machine's.
mkdir -p "${config%/*}"
(umask 077 && printf '[events]\nfile = "%s"\njournal = false\n' "$work/events.jsonl" >"$config")
mounts=()
helpers=()

vmc() {
    "$VMCRYPTFS" --config "$config" "$@" </dev/null
}

step() {
    echo "--- $*"
}

fail() {
    echo "FAILED: $*" >&2
    exit 1
}

# Another user gets to $work, or being refused would prove nothing. Only the mode of $work changes: the folders above it are
# the runner's, which lets others in to its own, and the machine's.
let_others_in() {
    chmod o+x "$work"
    if ! setpriv --reuid=65534 --regid=65534 --clear-groups --inh-caps=-all test -x "$work"; then
        echo "this test needs a place that other users reach, and they do not reach $work: set TMPDIR, or use scripts/tests/run"
        exit 77
    fi
}

# in_private_mounts PLACE COMMAND...: the command's mounts below PLACE are not seen by other processes.
in_private_mounts() {
    # The root of a chroot need not be a mount, and only mounts can be private. One that is made there is shared if the root is.
    # shellcheck disable=SC2016 # it is for the shell inside
    unshare --mount --propagation unchanged bash -c '
        is_shared() { awk -v place="$1" "\$5 == place && / shared:/ { found = 1 } END { exit !found }" /proc/self/mountinfo; }
        make_private() {
            mount --make-rprivate / 2>/dev/null || mount --make-rprivate "$1" 2>/dev/null || {
                mount --bind "$1" "$1" && { ! is_shared "$1" || { umount "$1"; false; }; }
            }
        }
        make_private "$1" || { echo "no private mounts" >&2; exit 77; }
        shift && exec "$@"' inside "$@"
}

# Runs the whole test once more, by a user who reaches nothing of root's: what it needs is given to that user. Then ends.
as_ordinary_user() {
    let_others_in
    cp -r "$scripts" "$work/scripts"
    cp "$VMCRYPTFS" "$work/vmcryptfs"
    mkdir "$work/own"
    chown 65534:65534 "$work/own"
    # On most machines everyone may open the device. Where not, it is so for this test: in a mount namespace of its own.
    mknod -m 666 "$work/fuse" c 10 229
    # shellcheck disable=SC2016 # it is for the shell inside
    in_private_mounts /dev bash -c 'mount --bind "$1" /dev/fuse && shift && exec "$@"' inside "$work/fuse" \
        setpriv --reuid=65534 --regid=65534 --clear-groups --inh-caps=-all \
        env HOME="$work/own" TMPDIR="$work/own" XDG_RUNTIME_DIR="$work/own" VMCRYPTFS="$work/vmcryptfs" \
        "$work/scripts/tests/${0##*/}"
    exit
}

is_mounted() {
    grep -q -F " $1 " /proc/self/mounts
}

# A mount logs into a file of its own, and not into the machine's.
vmc_mount() {
    local everywhere
    read -r -a everywhere <<<"${MOUNT_OPTIONS:-}"
    vmc mount --log-file "$work/mount.log" "${everywhere[@]}" "$@"
}

# start_mount FOLDER MOUNTPOINT [option...]
start_mount() {
    local folder=$1 mountpoint=$2
    shift 2
    mkdir -p "$mountpoint"
    # Before the attempt: one that fails halfway is cleaned up too.
    mounts+=("$mountpoint")
    vmc_mount "$folder" "$mountpoint" "$@"
    is_mounted "$mountpoint" || fail "mount returned, but $mountpoint is not mounted"
}

# stop_mount MOUNTPOINT
stop_mount() {
    vmc umount "$1"
    ! is_mounted "$1" || fail "umount returned, but $1 is still mounted"
}

# A VM folder web01 at $vm, made by a native provider `local`.
make_vm() {
    mkdir -p "$work/config" "$work/store"
    vm=$work/store/web01
    vmc provider add native local
    vmc create "$vm"
}

# Pids of the mounts of this test.
our_processes() {
    processes_with "--config $work/"
}

# Pid of the process that serves a mount.
mount_pid() {
    vmc status --json "$1" | sed -nE 's/.*"pid": *([0-9]+).*/\1/p' | head -n 1
}

# Waits until a writer of durable.py has synced all its kinds of files, and then a moment of any length.
until_it_goes() {
    local tries=0
    while [[ ! -e $work/record.going ]]; do
        ((++tries < 1200)) || fail "the writer has not synced everything once after 60 s"
        sleep 0.05
    done
    sleep "0.$((RANDOM % 8))$((RANDOM % 10))"
}

# wait_gone SECONDS: whether none of our processes is left.
wait_gone() {
    local deadline=$((SECONDS + $1))
    while [[ -n $(our_processes) ]]; do
        ((SECONDS < deadline)) || return 1
        sleep 0.1
    done
}

clean_up() {
    local status=$? pid mountpoint
    trap - EXIT
    set +e
    # What a failed test still holds open would keep its mounts busy.
    exec 3>&- 4>&- 5>&- 6>&- 7>&- 8>&- 9>&-
    for pid in "${helpers[@]}"; do
        kill "$pid" 2>/dev/null && wait "$pid" 2>/dev/null
    done
    for mountpoint in "${mounts[@]}"; do
        is_mounted "$mountpoint" || continue
        if ! vmc umount "$mountpoint" >&2; then
            echo "umount of $mountpoint failed at the end of the test; forcing it" >&2
            fusermount3 -u -z "$mountpoint"
            status=1
        fi
    done
    if ! wait_gone 10; then
        for pid in $(our_processes); do
            echo "process $pid is left over: $(tr '\0' ' ' <"/proc/$pid/cmdline")" >&2
            kill "$pid"
        done
        wait_gone 5 || for pid in $(our_processes); do kill -KILL "$pid"; done
        status=1
    fi
    if [[ $status -ne 0 && $status -ne 77 && -s $work/mount.log ]]; then
        echo "the end of the mount's log:" >&2
        tail -n 20 "$work/mount.log" >&2
    fi
    if declare -F clean_up_more >/dev/null; then
        clean_up_more
    fi
    rm -rf --one-file-system "$work"
    exit "$status"
}
trap clean_up EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

# Bytes that a file or folder takes on disk, holes not counted.
allocated() {
    du -s --block-size=1 "$1" | cut -f 1
}

# must_fail 'PATTERN' COMMAND...: the command fails, and says something that matches.
must_fail() {
    local pattern=$1 said
    shift
    if said=$("$@" 2>&1 </dev/null); then
        fail "this should have failed: $*"
    fi
    grep -q -i -E "$pattern" <<<"$said" || fail "expected /$pattern/ from: $*; it said: $said"
}

# How often TEXT occurs in the files below FOLDER. With -z, grep skips the holes of sparse files instead of reading them.
occurrences() {
    # Its exit code 1 says that there are none, which is no failure.
    { grep -r -z -a -c -F -h -e "$1" "$2" || [[ $? -eq 1 ]]; } | awk '{ sum += $1 } END { print sum + 0 }'
}
