"""Moves a running guest between two QEMUs, back and forth: live-migration.py DIR ROUNDS FORMAT FOLDER-OF-A FOLDER-OF-B IMAGE

Each QEMU has the image and the nvram by a mount of its own, as on two hosts. Before each move the QEMU that runs writes a pattern of
that round at several places of the image, and a byte of its flash, as its guest would; the next one must read all that was ever
written. Beside them a program has files open as swtpm from 0.8 on has them: it locks a file for as long as it runs, and lets go of it
in the move, when its state goes over; each state replaces the one before by its name.
"""

import pathlib
import random
import sys

from moving import NVRAM_LEN, PIECE, Qemu, Tpm


def main():
    folder, rounds, form, *places, image = sys.argv[1:]
    chance = random.Random(form)
    pieces, nvram = {}, bytearray(NVRAM_LEN)
    pathlib.Path(places[0], "nvram.fd").write_bytes(nvram)
    running = Qemu("0", folder, places[0], image, form, incoming=False)
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
        other = Qemu(str(number), folder, places[number % 2], image, form, incoming=True)
        tpm.lock.close()
        downtimes.append(running.move_to(other))
        tpm = Tpm(places[number % 2])
        tpm.must_have(number)
        running = other
        for place, pattern in pieces.items():
            running.must(f"read -q -P {pattern} {place} {PIECE}")
        for place in places:
            if pathlib.Path(place, "nvram.fd").read_bytes() != nvram:
                sys.exit(f"the nvram in {place} is not what was written")
    place, pattern = pieces.popitem()
    if "verification failed" not in running.io(f"read -q -P {pattern ^ 1} {place} {PIECE}"):
        sys.exit("a wrong pattern is not noticed")
    running.quit()
    tpm.lock.close()
    downtimes.sort()
    print(f"{rounds} moves of a {form} image, downtime {downtimes[len(downtimes) // 2]} ms, at most {downtimes[-1]} ms")


main()
