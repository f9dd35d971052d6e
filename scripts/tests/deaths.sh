# Sourced by tests behind mounts.sh: the program under strace, to be killed, stopped or failed at one of its system calls.
# shellcheck shell=bash

: "${work:?is not set: source mounts.sh first}" "${config:?}"
calls=pwrite64,ftruncate,fsync,fdatasync,renameat,renameat2,linkat,unlinkat,symlinkat,fsetxattr,fchmod,fchown,utimensat

strace -o /dev/null true 2>/dev/null || { echo "this machine does not let strace trace" && exit 77; }

# traced LOG ARGUMENTS...: runs vmcryptfs and writes down these calls of it.
traced() {
    local log=$1
    shift
    strace -f -y -o "$log" -e "trace=$calls,openat,openat2" "$VMCRYPTFS" --config "$config" "$@" </dev/null >/dev/null 2>&1
}

# struck HOW CALL N ARGUMENTS...: runs vmcryptfs, with HOW (signal=KILL, error=EIO...) instead of, or with, the N-th call of this
# kind. What it says goes to $work/said.
struck() {
    local how=$1 call=$2 number=$3
    shift 3
    # In a shell of its own, which keeps the news of a death to itself.
    (strace -f -o "$work/struck" -e "trace=$call" -e "inject=$call:$how:when=$number" \
        "$VMCRYPTFS" --config "$config" "$@" </dev/null >"$work/said" 2>&1; exit $?) >/dev/null 2>&1
}

# strikes LOG WIDTH: lines of `CALL N`, one for each call of interest that was made, of which one in WIDTH is taken.
strikes() {
    sed -n -E "s/^[0-9]+ +(${calls//,/|})\(.*/\1/p" "$1" | awk '{ print $1, ++seen[$1] }' |
        awk -v width="$2" -v first=$((RANDOM % $2)) 'NR % width == first'
}
