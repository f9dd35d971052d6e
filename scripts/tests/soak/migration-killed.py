"""Kills one side in the midst of a move: migration-killed.py DIR STAGE VICTIM FORMAT FOLDER-OF-A FOLDER-OF-B IMAGE PID-OF-A PID-OF-B

STAGE is where the move is by then: prepared, active, pre-switchover, switching or completed. VICTIM is source or target, which are QEMUs,
or source-mount or target-mount. Afterwards at most one QEMU can write the image, and one still does where neither it nor its mount was
killed before it had the disk. What was acknowledged goes to DIR/written, a line "PLACE PATTERN" each.
"""

import os
import pathlib
import random
import signal
import sys
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))
from moving import PIECE, Qemu  # noqa: E402

# What a QEMU writes to show that it can.
PROOF = 48 << 20


def reach(stage, source, target):
    if stage == "prepared":
        return
    ask = [{"capability": "pause-before-switchover", "state": stage in ("pre-switchover", "switching")}]
    source.command("migrate-set-capabilities", capabilities=ask)
    source.command("migrate-set-parameters", **{"max-bandwidth": 1 << 12 if stage == "active" else 1 << 30})
    source.command("migrate", uri=f"unix:{target.migration}")
    wanted = "pre-switchover" if stage == "switching" else stage
    for _ in range(3000):
        found = source.command("query-migrate").get("status")
        if found == wanted:
            break
        if found in ("failed", "cancelled"):
            sys.exit(f"the migration failed before it was {stage}")
        time.sleep(0.01)
    else:
        sys.exit(f"the migration does not become {stage}")
    if stage == "switching":
        source.command("migrate-continue", state="pre-switchover")
        time.sleep(random.random() / 20)
    if stage == "completed":
        target.wait_until("running")


def can_write(qemu, pattern):
    """Whether a QEMU runs, and its guest's writes reach the disk."""
    if qemu.process.poll() is not None:
        return False
    try:
        if qemu.command("query-status")["status"] != "running":
            return False
        return not qemu.io(f"write -q -P {pattern} {PROOF} {PIECE}") and not qemu.io("flush")
    except (OSError, ValueError, SystemExit):
        return False


def main():
    folder, stage, victim, form, *places, image, first, second = sys.argv[1:]
    written = {}
    source = Qemu("source", folder, places[0], image, form, incoming=False)
    for number in range(8):
        place = random.randrange(32 << 20) // PIECE * PIECE
        written[place] = random.randrange(1, 256)
        source.must(f"write -q -P {written[place]} {place} {PIECE}")
    source.must("flush")  # before that a qcow2 image may have its tables in memory alone
    target = Qemu("target", folder, places[1], image, form, incoming=True)
    reach(stage, source, target)
    pids = {
        "source": source.process.pid, "target": target.process.pid,
        "source-mount": int(first), "target-mount": int(second),
    }
    os.kill(pids[victim], signal.SIGKILL)
    if stage == "pre-switchover" and victim.startswith("target"):
        source.command("migrate_cancel")  # as libvirt does; until then the guest is stopped
        source.wait_until("running")
    time.sleep(1)  # a writer that gets the disk has it by then, or never
    able = [qemu for qemu in (source, target) if can_write(qemu, 77)]
    if len(able) > 1:
        sys.exit("both QEMUs write the disk")
    goes_on = {"source": target, "target": source, "source-mount": target, "target-mount": source}[victim]
    has_it = target if stage == "completed" else source
    if stage != "switching" and goes_on is has_it and able != [has_it]:
        sys.exit(f"the {'target' if has_it is target else 'source'} was not killed, but does not write")
    if able:
        written[PROOF] = 77
    for qemu in (source, target):
        qemu.process.kill()
        qemu.process.wait()
    lines = [f"{place} {pattern}\n" for place, pattern in written.items()]
    pathlib.Path(folder, "written").write_text("".join(lines), encoding="ascii")
    print(f"{form}, {stage}, {victim} killed: {len(able)} writer, {len(written)} places")


main()
