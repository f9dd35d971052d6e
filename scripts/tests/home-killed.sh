#!/usr/bin/env bash
# The mount's process is killed while programs write to home files. What they had synced is there when it is mounted again;
# a file that was replaced by write, fsync, rename is the old or the new one.
set -euo pipefail
# shellcheck source=scripts/tests/mounts.sh
source "$(dirname "$0")/mounts.sh"

mnt=$work/mnt
rounds=3

# writer FOLDER JOURNAL: until the mount is gone. Says on JOURNAL, which is no file of the mount, what was synced.
writer() {
    /usr/bin/python3 - "$@" <<'END'
import os, random, sys
folder, journal = sys.argv[1], os.open(sys.argv[2], os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND)
chance = random.Random()
BLOCKS = 200
def say(line):
    os.write(journal, f"{line}\n".encode())
nvram = os.open(f"{folder}/nvram", os.O_RDWR | os.O_CREAT)
log = os.open(f"{folder}/log", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
for number in range(1, 1 << 30):
    try:
        block = chance.randrange(BLOCKS)
        say(f"begin {block} {number}")
        os.pwrite(nvram, number.to_bytes(8, "little") * 512, block * 4096)
        os.write(log, b"line %08d\n" % number)
        new = os.open(f"{folder}/vmx.new", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.write(new, b"%d " % number * 3000)
        os.fsync(new)
        os.close(new)
        os.rename(f"{folder}/vmx.new", f"{folder}/vmx")
        say(f"vmx {number}")
        if number % 3 == 0:
            os.fsync(nvram)
            os.fsync(log)
            say(f"synced {number}")
    except OSError:
        sys.exit(0)
END
}

# check FOLDER JOURNAL
check() {
    /usr/bin/python3 - "$@" <<'END'
import os, sys
folder, lines = sys.argv[1], [line.split() for line in open(sys.argv[2])]
synced, began, pending, vmx = {}, {}, {}, 0
last = 0
for line in lines:
    if line[0] == "begin":
        block, number = int(line[1]), int(line[2])
        began.setdefault(block, []).append(number)
        pending[block] = number
    elif line[0] == "vmx":
        vmx = int(line[1])
    else:
        last = int(line[1])
        synced.update(pending)
        pending = {}
assert last > 0, "nothing was synced before the kill"
nvram = os.open(f"{folder}/nvram", os.O_RDONLY)
for block, number in synced.items():
    data = os.pread(nvram, 4096, block * 4096)
    found = int.from_bytes(data[:8], "little")
    assert data == data[:8] * 512, f"block {block} is torn"
    assert found >= number and found in began[block], f"block {block} has {found}, synced was {number}"
log = open(f"{folder}/log", "rb").read().split(b"\n")
assert len(log) > last and log[last - 1] == b"line %08d" % last, "a synced line of the log is gone"
data = open(f"{folder}/vmx", "rb").read()
number = int(data.split(b" ", 1)[0])
assert data == b"%d " % number * 3000 and number >= vmx, f"vmx is number {number}, after {vmx} was renamed"
print(f"{last} rounds, {len(synced)} blocks synced, vmx {number}")
END
}

make_vm
for ((round = 1; round <= rounds; round++)); do
    step "round $round"
    start_mount "$vm" "$mnt"
    rm -f "$mnt"/{nvram,log,vmx,vmx.new}
    writer "$mnt" "$work/journal" &
    helpers+=($!)
    sleep "$((round)).$((RANDOM % 10))"
    [[ -n $(our_processes) ]] || fail "the mount's process is gone"
    for pid in $(our_processes); do
        kill -KILL "$pid"
    done
    wait "${helpers[-1]}" || fail "the writer failed otherwise than by the kill"
    fusermount3 -u -z "$mnt" || umount -l "$mnt"
    wait_gone 10 || fail "the killed process is still there"
    start_mount "$vm" "$mnt"
    check "$mnt" "$work/journal"
    echo "written on" >>"$mnt/log"
    stop_mount "$mnt"
done
