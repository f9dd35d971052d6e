#!/usr/bin/env bash
# What a flag asks to be durable, instead of a sync, is there when the power is cut right after the write: O_SYNC, O_DSYNC,
# RWF_SYNC, RWF_DSYNC and the mount options sync and dirsync, on disks, home files and raw images, through the page cache and
# past it.
set -euo pipefail
# shellcheck source=scripts/requirements.sh
source "$(dirname "$0")/../requirements.sh"
# shellcheck source=scripts/tests/mounts.sh
source "$(dirname "$0")/mounts.sh"
# shellcheck source=scripts/tests/power.sh
source "$(dirname "$0")/power.sh"

flags=$(dirname "$0")/sync-flags.py
mounts_with=("buffered none" "buffered dirsync" "buffered sync" "direct none")

vmc provider add native local
make_medium ext4
step "files of ${#mounts_with[@]} mounts"
for mounted in "${mounts_with[@]}"; do
    vmc create "$below/${mounted// /-}"
    start_mount "$below/${mounted// /-}" "$work/${mounted// /-}"
    "$flags" prepare "$work/${mounted// /-}"
    stop_mount "$work/${mounted// /-}"
done

for mounted in "${mounts_with[@]}"; do
    step "$mounted: written, and the power is gone"
    read -r way option <<<"$mounted"
    at=$work/${mounted// /-}
    start_mount "$below/${mounted// /-}" "$at" --backing-io "$way" -o "${option/none/rw}"
    pid=$(mount_pid "$at")
    "$flags" write "$at" "$option"
    cut_power
    come_back "$at" "$pid"
    start_mount "$below/${mounted// /-}" "$at"
    "$flags" verify "$at" "$option" || fail "$mounted: what was durable is lost"
    stop_mount "$at"
done
unmount_below
