#!/usr/bin/env bash
# stress-ng's file system stressors in a VM's home, each verifying what it can, and a folder of very many files.
#
#     STRESS_SECONDS    how long each stressor runs (1); only if it is given are all of them run
#     STRESS_FILES      files in one folder (20000)
set -euo pipefail
# shellcheck source=scripts/tests/mounts.sh
source "$(dirname "$0")/mounts.sh"

mnt=$work/mnt
seconds=${STRESS_SECONDS:-1}
files=${STRESS_FILES:-20000}
stressors=(dentry dirdeep fallocate flock getdent hdd link lockofd rename xattr)
if [[ -n ${STRESS_SECONDS:-} ]]; then
    stressors+=(access chdir chmod chown copy-file dir dirmany dup fcntl fiemap filename fpunch fstat inotify iomix lease locka
        lockf mknod open seek symlink sync-file touch utime)
fi

make_vm
start_mount "$vm" "$mnt"
mkdir "$mnt/stress"

for stressor in "${stressors[@]}"; do
    options=()
    case $stressor in
        # The default fills a gigabyte.
        copy-file) options=(--copy-file-bytes 128M) ;; # its least
        hdd | iomix | fallocate | sync-file) options=("--$stressor-bytes" 32M) ;;
        seek) options=(--seek-size 32M) ;;
    esac
    step "stress-ng: $stressor"
    stress-ng --temp-path "$mnt/stress" --timeout "${seconds}s" --verify --log-brief --metrics-brief \
        "--$stressor" 2 "${options[@]}" </dev/null >"$work/stress.out" 2>&1 || {
        cat "$work/stress.out" >&2
        fail "stress-ng: $stressor"
    }
    ! grep -i -E 'fail:|error:' "$work/stress.out" || fail "stress-ng: $stressor"
done
[[ -z $(ls -A "$mnt/stress") ]] || fail "stress-ng left: $(ls "$mnt/stress")"

step "a folder of $files files"
mkdir "$mnt/many"
seq "$files" | (cd "$mnt/many" && xargs touch)
[[ $(find "$mnt/many" -type f | wc -l) -eq $files ]] || fail "find sees $(find "$mnt/many" -type f | wc -l) files"
[[ $(find "$mnt/many" -type f | sort -u | wc -l) -eq $files ]] || fail "find sees a file twice"
rm -r "$mnt/many"

grep -E 'ERROR|panicked' "$work/mount.log" && fail "the mount logged errors"
stop_mount "$mnt"
vmc check "$vm"
