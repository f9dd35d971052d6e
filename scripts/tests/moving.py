"""QEMUs and a TPM's files that move between two mounts of one folder, for live-migration.py and soak/migration-killed.py."""

import json
import os
import pathlib
import socket
import subprocess
import sys
import time

PIECE = 64 << 10
FIRMWARE = "/usr/share/seabios/bios-256k.bin"
NVRAM_LEN = 64 << 10
# Of verifying-guest.S: where its number of writes lies in memory, and its slots on the disk.
COUNT_AT = 0x7C00 + 0x1F0
SLOTS, SLOT_LEN, FIRST_SLOT = 1024, 4096, 40 << 20


class Qemu:
    """One QEMU, talked to by QMP."""

    def __init__(self, name, folder, place, image, form, incoming, tpm=None):
        self.qmp, self.migration = f"{folder}/{name}.qmp", f"{folder}/{name}.mig"
        self.tests = f"{folder}/{name}.qtest"
        self.nvram = f"{place}/nvram.fd"
        self.failed = f"{folder}/{name}.failed"
        command = [
            "qemu-system-x86_64", "-accel", "tcg", "-m", "32", "-nodefaults", "-display", "none",
            "-drive", f"file={FIRMWARE},format=raw,if=pflash,unit=0,readonly=on",
            "-drive", f"file={self.nvram},format=raw,if=pflash,unit=1",
            "-drive", f"id=d,file={place}/{image},format={form},cache=none,if=virtio",
            "-chardev", f"file,id=failed,path={self.failed}", "-device", "isa-debugcon,iobase=0xe9,chardev=failed",
            "-qmp", f"unix:{self.qmp},server=on,wait=off",
            "-qtest", f"unix:{self.tests},server=on,wait=off", "-qtest-log", "none",
        ]
        if tpm:
            command += ["-chardev", f"socket,id=t,path={tpm.socket}", "-tpmdev", "emulator,id=t,chardev=t"]
            command += ["-device", "tpm-tis,tpmdev=t"]
        if incoming:
            command += ["-incoming", f"unix:{self.migration}"]
        self.events = []
        self.output = pathlib.Path(f"{folder}/{name}.out")
        with self.output.open("wb") as output:
            self.process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=output, stderr=output)
        self.stream = self.connect(self.qmp).makefile("rw")
        self.stream.readline()
        self.command("qmp_capabilities")

    def connect(self, path):
        for _ in range(600):
            if self.process.poll() is not None:
                sys.exit(f"QEMU ended with {self.process.returncode}: {self.said()}")
            client = socket.socket(socket.AF_UNIX)
            try:
                client.connect(path)
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
            if "event" in answer:
                self.events.append(answer)
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

    def writes(self):
        """How often verifying-guest.S has written. It ends the test if the guest has read something else than it wrote."""
        if pathlib.Path(self.failed).stat().st_size:
            sys.exit(f"the guest reads what it did not write, or not at all: {self.said()}")
        said = self.command("human-monitor-command", **{"command-line": f"xp /1uw {COUNT_AT:#x}"})
        return int(said.split(":")[1])

    def wait_for_writes(self, number):
        for _ in range(6000):
            if self.writes() >= number:
                return
            time.sleep(0.01)
        sys.exit(f"the guest does not go on: {self.writes()} writes, expected {number}")

    def flash(self, at, byte):
        """Writes a byte of the nvram as firmware does: by the commands of the flash chip."""
        stream = self.connect(self.tests).makefile("rw")
        base = (4 << 30) - pathlib.Path(FIRMWARE).stat().st_size - NVRAM_LEN
        for address, value in [(base + at, 0x40), (base + at, byte), (base, 0xFF)]:
            stream.write(f"writeb {address:#x} {value:#x}\n")
            stream.flush()
            while not (answer := stream.readline()).startswith("OK"):
                if not answer.startswith("IRQ"):
                    sys.exit(f"writeb: {answer}")

    def must(self, command):
        if said := self.io(command):
            sys.exit(f"qemu-io {command}: {said}")

    def wait_until(self, status):
        for _ in range(6000):
            if self.command("query-status")["status"] == status:
                return
            time.sleep(0.01)
        sys.exit(f"QEMU does not become {status}: {self.command('query-status')}")

    def time_of(self, name):
        """When the last event of this name happened, in seconds. Events come before the answer to the next command."""
        stamps = [event["timestamp"] for event in self.events if event["event"] == name]
        if not stamps:
            sys.exit(f"QEMU has no event {name}: {self.events}")
        return stamps[-1]["seconds"] + stamps[-1]["microseconds"] / 1e6

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


class Swtpm:
    """A TPM of one QEMU, which moves its state to the next one's in its stream."""

    def __init__(self, name, folder, state):
        self.socket = f"{folder}/{name}.tpm"
        self.log = pathlib.Path(f"{folder}/{name}.tpm-log")
        self.run(state, "--ctrl", f"type=unixio,path={self.socket}")

    def run(self, state, *options):
        command = ["swtpm", "socket", "--tpm2", "--tpmstate", f"dir={state}", "--terminate", *options]
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        for _ in range(1200):
            if os.path.exists(self.socket):
                return
            if self.process.poll() is not None:
                break
            time.sleep(0.05)
        sys.exit(f"swtpm does not answer: {self.log.read_text(errors='replace')}")

    def wait(self):
        if self.process.wait(60):
            sys.exit(f"swtpm ended with {self.process.returncode}: {self.log.read_text(errors='replace')}")


class AnsweringSwtpm(Swtpm):
    """A TPM without a QEMU, which is asked directly."""

    # TPM2_ReadPublic of the endorsement key, which swtpm_setup has at this place.
    READ_PUBLIC = bytes.fromhex("8001 0000000e 00000173 81010001")

    def run(self, state, *_):
        super().run(state, "--server", f"type=unixio,path={self.socket}", "--flags", "not-need-init,startup-clear")

    def endorsement_key(self):
        with socket.socket(socket.AF_UNIX) as client:
            client.settimeout(60)
            client.connect(self.socket)
            client.sendall(self.READ_PUBLIC)
            answer = client.recv(4096)
        self.wait()
        if answer[6:10] != bytes(4):
            sys.exit(f"the TPM has no endorsement key: {answer.hex()}")
        return answer


class Tpm:
    """Has files open as swtpm has them."""

    def __init__(self, place):
        self.place = pathlib.Path(place) / "tpm"
        self.place.mkdir(exist_ok=True)
        self.lock = (self.place / ".lock").open("w")

    def store(self, number):
        state = self.place / "TMP-state"
        with state.open("wb") as file:
            file.write(bytes([number % 256]) * 3000)
            file.flush()
            os.fsync(file.fileno())
        state.rename(self.place / "tpm2-00.permall")

    def must_have(self, number):
        found = (self.place / "tpm2-00.permall").read_bytes()
        if found != bytes([number % 256]) * 3000:
            sys.exit(f"the TPM's state is that of another round: {len(found)} bytes of {found[:1]}, expected {number % 256}")
