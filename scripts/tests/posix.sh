#!/usr/bin/env bash
# The suites of others: pjdfstest for what POSIX says of names, modes, owners and times, on the mount and on the file system
# beneath; fsx for content, on home files and on disks.
#
#     SUITES         where pjdfstest and fsx are installed with cargo, if they are not there (target/suites)
#     POSIX_CASES    pjdfstest's cases, as patterns (all)
#     POSIX_RESULTS  keep pjdfstest's output on the mount in this file
#     FSX_OPS        operations of each fsx run (20000)
#     FSX_SEED       which operations (31)
#
# Fails with a case that fails on the mount and not beneath, or that does not run there, unless docs/SEMANTICS.md lists it.
#
# Takes long: a minute and a half, four times as much as most.
set -euo pipefail
# The path of a socket has at most 107 bytes, and pjdfstest's names are long: its folder lies near the root.
export TMPDIR=/var/tmp
# shellcheck source=scripts/tests/mounts.sh
source "$(dirname "$0")/mounts.sh"

if [[ $(id -u) -ne 0 ]]; then
    echo "pjdfstest changes users, and that takes root" >&2
    exit 77
fi

suites=${SUITES:-${CARGO_TARGET_DIR:-$scripts/../target}/suites}
operations=${FSX_OPS:-20000}
seed=${FSX_SEED:-31}
mnt=$work/mnt

SUITES=$suites "$(dirname "$0")/build-suites"

# --- pjdfstest

cat >"$work/pjdfstest.toml" <<'END'
[features]
posix_fallocate = {}
rename_ctime = {}
utime_now = {}
utimensat = {}

[settings]
naptime = 0.02
allow_remount = false

[dummy_auth]
entries = [["nobody", "nogroup"], ["daemon", "daemon"]]
END

# pjdfstest_on FOLDER [PATTERN...]: prints `CASE RESULT`, one a line.
pjdfstest_on() {
    local folder=$1
    shift
    chmod 755 "$folder"
    # It has something to say with its exit code, and says the same in its output.
    PATH="$work/bin:$PATH" NO_COLOR=1 "$suites/bin/pjdfstest" -c "$work/pjdfstest.toml" -p "$folder" -s "$other" \
        "$@" >"$work/pjdfstest.out" 2>&1 || true
    grep -q '^Summary' "$work/pjdfstest.out" || fail "pjdfstest ended early: $(tail -n 5 "$work/pjdfstest.out")"
    awk '/^[a-z_0-9]+(::[a-z_0-9]+)+ +(ok|FAILED|skipped)$/ { print $1, $2 }' "$work/pjdfstest.out" | sort
}

# Cases that fail on the mount for a reason, which stands beside them: table rows `| case | reason |` of docs/SEMANTICS.md.
known_failures() {
    awk -F '`' '/^## /{ here = /Suites/ } here && /^\| `[a-z_0-9]+::/ { print $2 }' "$scripts/../docs/SEMANTICS.md" | sort
}

make_vm
# Other users come this way.
chmod 755 "$work" "$work/store" "$vm"
start_mount "$vm" "$mnt" -o allow_other
mkdir "$mnt/posix" "$work/posix"
other=/dev/shm
[[ -d $other ]] || other=/run

step "pjdfstest on the file system beneath"
read -ra cases <<<"${POSIX_CASES:-}"
pjdfstest_on "$work/posix" "${cases[@]}" >"$work/beneath"
step "pjdfstest on the mount"
pjdfstest_on "$mnt/posix" "${cases[@]}" >"$work/ours"
cp "$work/pjdfstest.out" "$work/ours.out"

# Cases that remount what they run on as read-only: beneath, that would be the machine's own file system. On their own,
# since other cases leave files open, which keep any file system writable.
step "pjdfstest on the mount, cases of a read-only file system"
sed -i 's/allow_remount = false/allow_remount = true/' "$work/pjdfstest.toml"
mkdir "$work/bin"
# Without -i, mount(8) asks a helper, which looks for an installed vmcryptfs.
printf '#!/bin/sh\nexec %s -i "$@"\n' "$(command -v mount)" >"$work/bin/mount"
chmod +x "$work/bin/mount"
pjdfstest_on "$mnt/posix" erofs >"$work/read-only"
cat "$work/pjdfstest.out" >>"$work/ours.out"
grep -q '::erofs_[a-z_]* ok$' "$work/read-only" || fail "no case ran: $(tail -n 5 "$work/pjdfstest.out")"
join -a 1 "$work/ours" "$work/read-only" | awk '{ print $1, $NF }' >"$work/both"
mv "$work/both" "$work/ours"
for result in ok FAILED skipped; do
    echo "$result: $(grep -c " $result\$" "$work/ours" || true) on the mount, $(grep -c " $result\$" "$work/beneath" || true) beneath"
done
grep -q ' ok$' "$work/ours" || fail "no case ran: $(tail -n 5 "$work/ours.out")"

awk '{ print $1 }' "$work/beneath" >"$work/cases.beneath"
awk '{ print $1 }' "$work/ours" >"$work/cases.ours"
cmp "$work/cases.beneath" "$work/cases.ours" || fail "not the same cases ran"
join "$work/beneath" "$work/ours" | awk '$3 == "FAILED" && $2 != "FAILED" || $3 == "skipped" { print $1 }' >"$work/worse"
known_failures >"$work/known"
[[ -z ${POSIX_RESULTS:-} ]] || cp "$work/ours.out" "$POSIX_RESULTS"
if [[ -n $(comm -23 "$work/worse" "$work/known") ]]; then
    while read -r case; do
        grep -F -A 3 "$case " "$work/ours.out" >&2
    done < <(comm -23 "$work/worse" "$work/known")
    fail "cases that fail or do not run on the mount, not listed in docs/SEMANTICS.md: $(comm -23 "$work/worse" "$work/known" | xargs)"
fi
if [[ -z ${POSIX_CASES:-} && -n $(comm -13 "$work/worse" "$work/known") ]]; then
    fail "docs/SEMANTICS.md lists cases that pass: $(comm -13 "$work/worse" "$work/known" | xargs)"
fi

# --- fsx

cat >"$work/fsx.toml" <<'END'
flen = 1048576
[opsize]
max = 131072
[weights]
close_open = 1
read = 10
write = 10
mapread = 10
mapwrite = 10
invalidate = 1
truncate = 3
fsync = 1
fdatasync = 1
posix_fallocate = 2
punch_hole = 3
sendfile = 3
posix_fadvise = 1
copy_file_range = 3
END
for file in fsx fsx.raw; do
    step "fsx on $file, $operations operations of seed $seed"
    "$suites/bin/fsx" -q -f "$work/fsx.toml" -N "$operations" -S "$seed" -P "$work" "$mnt/$file" >"$work/fsx.out" 2>&1 || {
        tail -n 40 "$work/fsx.out" >&2
        fail "fsx on $file"
    }
done
stop_mount "$mnt"
vmc check "$vm"
