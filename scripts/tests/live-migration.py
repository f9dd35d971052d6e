"""Moves a running guest between two QEMUs, back and forth: live-migration.py DIR ROUNDS FORMAT FOLDER-OF-A FOLDER-OF-B IMAGE

Each QEMU has the image, the nvram and swtpm's state by a mount of its own, as on two hosts. The guest is verifying-guest.S, which writes and reads all
the time, also while it moves. Before each move the QEMU that runs writes a pattern of
that round at several places of the image, and a byte of its flash, as its guest would; the next one must read all that was ever
written. Beside them a program has files open as swtpm from 0.8 on has them: it locks a file for as long as it runs, and lets go of it
in the move, when its state goes over; each state replaces the one before by its name.
"""

import os
import pathlib
import random
import shutil
import subprocess
import sys

from moving import FIRST_SLOT, NVRAM_LEN, PIECE, SLOT_LEN, SLOTS, AnsweringSwtpm, Qemu, Swtpm, Tpm


def must_have_all(folder, image, form, writes):
    """Each slot has the latest of the guest's writes to it; the guest may have gone on after that number was read."""
    plain = f"{folder}/plain"
    subprocess.run(["qemu-img", "convert", "-f", form, "-O", "raw", image, plain], check=True)
    with open(plain, "rb") as file:
        file.seek(FIRST_SLOT)
        slots = [file.read(SLOT_LEN) for _ in range(SLOTS)]
    found = [int.from_bytes(slot[:4], "little") for slot in slots]
    latest = max(found)
    if latest < writes:
        sys.exit(f"the latest write has number {latest}, expected {writes}")
    for number, slot in enumerate(slots):
        expected = max(latest - (latest - number) % SLOTS, 0)
        if slot != expected.to_bytes(4, "little") * (SLOT_LEN // 4):
            sys.exit(f"slot {number} has number {found[number]}, expected {expected}")
    return latest


def must_not_rekey(folder, image):
    """A data key is not exchanged while the guest has its disk open on both sides."""
    command = [os.environ["VMCRYPTFS"], "--config", f"{folder}/config/config.toml", "rekey", "--deep", image]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 6 or "in use" not in done.stderr:
        sys.exit(f"rekey --deep under a guest that moves ended with {done.returncode}: {done.stderr}")


def main():
    folder, rounds, form, *places, image = sys.argv[1:]
    chance = random.Random(form)
    pieces, nvram = {}, bytearray(NVRAM_LEN)
    pathlib.Path(places[0], "nvram.fd").write_bytes(nvram)
    subprocess.run(
        ["qemu-io", "-f", form, "-c", f"write -q -s {folder}/guest 0 512", f"{places[0]}/{image}"], check=True
    )
    # One for each side: swtpm before 0.8, as Debian has it, cannot let go of a state that the other one is to have.
    states = [pathlib.Path(place, f"swtpm-{side}") for place, side in zip(places, "ab")]
    for state in states:
        shutil.rmtree(state, ignore_errors=True)
    states[0].mkdir()
    setup = ["swtpm_setup", "--tpm2", "--tpm-state", states[0], "--createek", "--logfile", f"{folder}/setup"]
    subprocess.run(setup, check=True, stdout=subprocess.DEVNULL)
    endorsement_key = AnsweringSwtpm("before", folder, states[0]).endorsement_key()
    swtpm = Swtpm("0", folder, states[0])
    running = Qemu("0", folder, places[0], image, form, incoming=False, tpm=swtpm)
    running.wait_for_writes(1)
    tpm = Tpm(places[0])
    downtimes = []
    for number in range(1, int(rounds) + 1):
        for _ in range(4):
            place = chance.randrange(32 << 20) // PIECE * PIECE
            pieces[place] = number % 255 + 1
            running.must(f"write -q -P {pieces[place]} {place} {PIECE}")
        at = chance.randrange(NVRAM_LEN)
        nvram[at] = number % 255 + 1
        running.flash(at, nvram[at])
        tpm.store(number)
        state = states[number % 2]
        shutil.rmtree(state, ignore_errors=True)
        state.mkdir()
        other_swtpm = Swtpm(number, folder, state)
        other = Qemu(str(number), folder, places[number % 2], image, form, incoming=True, tpm=other_swtpm)
        if number == 1:
            for place in places:
                must_not_rekey(folder, f"{place}/{image}")
        tpm.lock.close()
        written = running.writes()
        downtimes.append(running.move_to(other))
        swtpm.wait()
        running, swtpm = other, other_swtpm
        tpm = Tpm(places[number % 2])
        tpm.must_have(number)
        running.wait_for_writes(written + 1)
        for place, pattern in pieces.items():
            running.must(f"read -q -P {pattern} {place} {PIECE}")
        for place in places:
            if pathlib.Path(place, "nvram.fd").read_bytes() != nvram:
                sys.exit(f"the nvram in {place} is not what was written")
    place, pattern = pieces.popitem()
    if "verification failed" not in running.io(f"read -q -P {pattern ^ 1} {place} {PIECE}"):
        sys.exit("a wrong pattern is not noticed")
    written = running.writes()
    running.quit()
    swtpm.wait()
    if AnsweringSwtpm("after", folder, state).endorsement_key() != endorsement_key:
        sys.exit("swtpm has another endorsement key than before it moved")
    written = must_have_all(folder, f"{places[0]}/{image}", form, written)
    tpm.lock.close()
    downtimes.sort()
    said = f"downtime {downtimes[len(downtimes) // 2]} ms, at most {downtimes[-1]} ms, {written} writes of the guest"
    print(f"{rounds} moves of a {form} image, {said}")


main()
