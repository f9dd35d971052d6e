"""Moves a running guest between two QEMUs, back and forth: live-migration.py DIR ROUNDS FORMAT IMAGE-OF-A IMAGE-OF-B

Each QEMU has the image by a mount of its own, as on two hosts. Before each move the QEMU that runs writes a pattern of that round
at several places, as its guest would; the next one must read all that was ever written.
"""

import json
import pathlib
import random
import socket
import subprocess
import sys
import time

PIECE = 64 << 10


class Qemu:
    """One QEMU, talked to by QMP."""

    def __init__(self, name, folder, image, form, incoming):
        self.qmp, self.migration = f"{folder}/{name}.qmp", f"{folder}/{name}.mig"
        command = [
            "qemu-system-x86_64", "-accel", "tcg", "-m", "32", "-nodefaults", "-display", "none",
            "-drive", f"id=d,file={image},format={form},cache=none,if=virtio",
            "-qmp", f"unix:{self.qmp},server=on,wait=off",
        ]
        if incoming:
            command += ["-incoming", f"unix:{self.migration}"]
        self.output = pathlib.Path(f"{folder}/{name}.out")
        with self.output.open("wb") as output:
            self.process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=output, stderr=output)
        self.stream = self.connect().makefile("rw")
        self.stream.readline()
        self.command("qmp_capabilities")

    def connect(self):
        for _ in range(600):
            if self.process.poll() is not None:
                sys.exit(f"QEMU ended with {self.process.returncode}: {self.said()}")
            client = socket.socket(socket.AF_UNIX)
            try:
                client.connect(self.qmp)
                client.settimeout(120)
                return client
            except OSError:
                client.close()
                time.sleep(0.05)
        sys.exit("QEMU does not answer")

    def command(self, name, **arguments):
        self.stream.write(json.dumps({"execute": name, "arguments": arguments}) + "\n")
        self.stream.flush()
        while True:
            answer = json.loads(self.stream.readline())
            if "error" in answer:
                sys.exit(f"{name}: {answer['error']['desc']}")
            if "return" in answer:
                return answer["return"]

    def said(self):
        return self.output.read_text(errors="replace")

    def io(self, command):
        """I/O of the guest's disk. Says what was said of it, which is nothing when all is well."""
        before = len(self.said())
        answer = self.command("human-monitor-command", **{"command-line": f'qemu-io d "{command}"'})
        return answer + self.said()[before:]

    def must(self, command):
        if said := self.io(command):
            sys.exit(f"qemu-io {command}: {said}")

    def wait_until(self, status):
        for _ in range(6000):
            if self.command("query-status")["status"] == status:
                return
            time.sleep(0.01)
        sys.exit(f"QEMU does not become {status}: {self.command('query-status')}")

    def move_to(self, other):
        self.command("migrate", uri=f"unix:{other.migration}")
        while True:
            found = self.command("query-migrate")
            if found.get("status") == "completed":
                break
            if found.get("status") in ("failed", "cancelled"):
                sys.exit(f"the migration failed: {found}")
            time.sleep(0.01)
        other.wait_until("running")
        self.quit()
        return found.get("downtime", 0)

    def quit(self):
        self.command("quit")
        self.process.wait(60)


def main():
    folder, rounds, form, *images = sys.argv[1:]
    chance = random.Random(form)
    pieces = {}
    running = Qemu("0", folder, images[0], form, incoming=False)
    downtimes = []
    for number in range(1, int(rounds) + 1):
        for _ in range(4):
            place = chance.randrange(32 << 20) // PIECE * PIECE
            pieces[place] = number % 255 + 1
            running.must(f"write -q -P {pieces[place]} {place} {PIECE}")
        other = Qemu(str(number), folder, images[number % 2], form, incoming=True)
        downtimes.append(running.move_to(other))
        running = other
        for place, pattern in pieces.items():
            running.must(f"read -q -P {pattern} {place} {PIECE}")
    place, pattern = pieces.popitem()
    if "verification failed" not in running.io(f"read -q -P {pattern ^ 1} {place} {PIECE}"):
        sys.exit("a wrong pattern is not noticed")
    running.quit()
    print(f"{rounds} moves of a {form} image, downtime at most {max(downtimes)} ms")


main()
