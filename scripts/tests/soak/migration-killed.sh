#!/usr/bin/env bash
# A guest moves between two QEMUs, each with a mount of its own, and one of the four is killed at each stage of the move: there is one
# writer or none then, what was acknowledged is there, and the disk can be written again by either mount.
#
#     KILL_ROUNDS   how often each (1)
set -euo pipefail
# shellcheck source=scripts/tests/mounts.sh
source "$(dirname "$0")/../mounts.sh"

first=$work/a second=$work/b

# mount_again MOUNTPOINT: mounts it where the process of its mount is gone.
mount_again() {
    if ! vmc status "$1" >/dev/null 2>&1; then
        fusermount3 -u -z "$1" 2>/dev/null || true
        start_mount "$vm" "$1" --hand-over 3s
    fi
}

make_vm
vmc create-disk "$vm/raw.raw" --size 64M
mount_again "$first"
mount_again "$second"
qemu-img create -q -f qcow2 "$first/image.qcow2" 64M
head -c 65536 /dev/zero >"$first/nvram.fd"

for ((round = 0; round < ${KILL_ROUNDS:-1}; round++)); do
    for stage in prepared active pre-switchover switching completed; do
        for victim in source target source-mount target-mount; do
            for image in raw.raw image.qcow2; do
                format=${image#*.}
                timeout 120 python3 -B "$scripts/tests/soak/migration-killed.py" "$work" "$stage" "$victim" "$format" \
                    "$first" "$second" "$image" "$(mount_pid "$first")" "$(mount_pid "$second")" ||
                    fail "$format, $stage, $victim"
                mount_again "$first"
                mount_again "$second"
                for mountpoint in "$first" "$second"; do
                    commands=()
                    while read -r place pattern; do
                        commands+=(-c "read -q -P $pattern $place 65536")
                    done <"$work/written"
                    said=$(qemu-io -f "$format" "${commands[@]}" -c "write -q -P 9 60M 64k" "$mountpoint/$image" 2>&1) ||
                        fail "$format, $stage, $victim: $said"
                    [[ -z $said ]] || fail "$format, $stage, $victim, by $mountpoint: $said"
                done
                [[ $(stat -c %s "$first/nvram.fd") -eq 65536 ]] || fail "the nvram has another length"
            done
        done
    done
done

stop_mount "$second"
stop_mount "$first"
vmc check "$vm" >/dev/null || fail "check finds damage"
echo "one writer or none, and no byte was lost"
