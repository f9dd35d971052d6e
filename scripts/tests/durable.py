#!/usr/bin/env python3
"""Writes to the files of a mount until it fails, records what was acknowledged and what was synced, and checks later that
it is there.

    durable.py write FOLDER RECORD [SECONDS]     until the mount fails, SIGTERM, or the time is over
    durable.py verify FOLDER RECORD killed       the mount's process died: all that was acknowledged is there
    durable.py verify FOLDER RECORD power-cut    the power failed: all that was synced is there

FOLDER is a mounted VM folder with the disks fixed.raw and small.raw, each of at least 4 MiB. RECORD lies outside of it, and
is carried on from run to run; who cuts the power makes RECORD.power-fails first. RECORD.going
appears when each kind of file was synced once. What was written and neither acknowledged nor synced may be there or not, piece by piece: a
piece is 512 bytes of a disk, 4096 of a home file.
"""

import ctypes
import errno
import hashlib
import json
import os
import random
import signal
import sys
import threading
import time

# What a program sees when the mount's process died, or the file system beneath it was shut down.
EXPECTED = {errno.ENOTCONN, errno.ECONNABORTED, errno.EIO, errno.ENODEV, errno.EROFS, errno.ESHUTDOWN}
URING = "/sys/module/fuse/parameters/enable_uring"
if os.path.exists(URING) and open(URING, encoding="ascii").read().strip() == "Y":
    # What Linux says of a request that was on its way into the ring of a process that died.
    EXPECTED.add(errno.ECANCELED)
UNIT, BLOCK = 512, 4096
SLOTS = 160
LIBC = ctypes.CDLL(None, use_errno=True)
# Workers that synced in this run, of so many.
SYNCED, WORKERS = set(), 7


def content(name, slot, generation, size):
    """What a slot holds in its n-th generation: zeros, or bytes that say whose they are."""
    if generation % 5 == 0:
        return bytes(size)
    return hashlib.shake_128(f"{name} {slot} {generation}".encode()).digest(size)


class Slots:
    """A file of slots of one size, each written anew and anew."""

    def __init__(self, folder, name, size, piece, record):
        self.path, self.name, self.size, self.piece = os.path.join(folder, name), name, size, piece
        empty = {"tried": [0] * SLOTS, "acknowledged": [0] * SLOTS, "synced": [0] * SLOTS}
        self.record = record.setdefault(name, empty)

    def run(self, rng, stopping):
        tried, acknowledged = self.record["tried"], self.record["acknowledged"]
        file = os.open(self.path, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            if os.fstat(file).st_size < SLOTS * self.size:
                os.ftruncate(file, SLOTS * self.size)
            while not stopping():
                slot = rng.randrange(SLOTS)
                tried[slot] += 1
                self.write(file, slot, tried[slot])
                acknowledged[slot] = tried[slot]
                if rng.random() < 0.2:
                    seen = read_all(file, self.size, slot * self.size)
                    if seen != content(self.name, slot, tried[slot], self.size):
                        raise SystemExit(f"{self.name}: slot {slot} reads otherwise than it was just written")
                if rng.random() < 0.1:
                    before = list(acknowledged)
                    os.fdatasync(file)
                    if sync_counts(self):
                        self.record["synced"] = before
        finally:
            os.close(file)

    def write(self, file, slot, generation):
        data = content(self.name, slot, generation, self.size)
        if not any(data) and generation % 2 == 0:
            punch(file, slot * self.size, self.size)
        else:
            write_all(file, data, slot * self.size)

    def verify(self, bound):
        if not os.path.exists(self.path):
            return [f"{self.name} is gone"] if any(self.record[bound]) else []
        file = os.open(self.path, os.O_RDONLY)
        try:
            return [problem for slot in range(SLOTS) for problem in self.verify_slot(file, slot, bound)]
        finally:
            os.close(file)

    def verify_slot(self, file, slot, bound):
        oldest, newest = self.record[bound][slot], self.record["tried"][slot]
        allowed = [content(self.name, slot, number, self.size) for number in range(oldest, newest + 1)]
        start, end = slot * self.size, (slot + 1) * self.size
        at = start
        while at < end:
            after = min(end, (at // self.piece + 1) * self.piece)
            try:
                seen = os.pread(file, after - at, at).ljust(after - at, b"\0")
            except OSError as error:
                if error.errno != errno.EIO or not self.may_be_damaged(at, bound):
                    yield f"{self.name}: byte {at}: {error.strerror}"
            else:
                if not any(state[at - start : after - start] == seen for state in allowed):
                    yield f"{self.name}: bytes {at} to {after} of slot {slot} are of no generation {oldest} to {newest}"
            at = after

    def may_be_damaged(self, at, bound):
        """Whether a power cut may have torn the first version of a home file's block: as far as it was synced it is zeros, which
        are a hole, and a hole is no version to go back to (docs/FORMAT.md, section 9)."""
        start = at // BLOCK * BLOCK
        slots = range(start // self.size, min(SLOTS, (start + BLOCK - 1) // self.size + 1))
        synced = [content(self.name, slot, self.record["synced"][slot], self.size) for slot in slots]
        return bound == "synced" and self.piece == BLOCK and not any(map(any, synced))


def sync_counts(worker):
    """Whether the sync that just returned says anything: not while the power is being cut. ext4 has been seen to let one
    succeed that the shutdown ioctl overtook."""
    if os.path.exists(RECORD + ".power-fails"):
        return False
    SYNCED.add(worker)
    if len(SYNCED) == WORKERS:
        with open(RECORD + ".going", "w", encoding="utf-8"):
            pass
    return True


def read_all(file, size, offset):
    """As with writes: a mount that dies in the midst of a read makes it a short one."""
    data = b""
    while len(data) < size:
        more = os.pread(file, size - len(data), offset + len(data))
        if not more:
            raise SystemExit(f"the file ends at byte {offset + len(data)}")
        data += more
    return data


def write_all(file, data, offset):
    """A mount that dies in the midst of a write makes it a short one; the error comes with the next."""
    while data:
        written = os.pwrite(file, data, offset)
        data, offset = data[written:], offset + written


def punch(file, offset, length):
    """fallocate(2) with FALLOC_FL_PUNCH_HOLE, which Python has no call for."""
    if LIBC.fallocate(file, 3, ctypes.c_int64(offset), ctypes.c_int64(length)) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


class Log:
    """Files that grow by pieces of any length; each byte follows from its place."""

    LONGEST = 1 << 20

    def __init__(self, folder, suffix, piece, record):
        self.folder, self.suffix, self.piece = folder, suffix, piece
        empty = {"number": 0, "tried": 0, "acknowledged": 0, "synced": 0}
        self.record = record.setdefault(f"log{suffix}", empty)

    def path(self):
        return os.path.join(self.folder, f"log-{self.record['number']}{self.suffix}")

    def text(self):
        return hashlib.shake_128(self.path().rsplit("/", 1)[1].encode()).digest(self.LONGEST)

    def run(self, rng, stopping):
        record = self.record
        while not stopping():
            text = self.text()
            file = os.open(self.path(), os.O_RDWR | os.O_CREAT, 0o600)
            try:
                # What a crash left behind the acknowledged end.
                os.ftruncate(file, record["acknowledged"])
                while record["acknowledged"] < self.LONGEST and not stopping():
                    start = record["acknowledged"]
                    record["tried"] = min(self.LONGEST, start + rng.randrange(1, 6000))
                    write_all(file, text[start : record["tried"]], start)
                    record["acknowledged"] = record["tried"]
                    if rng.random() < 0.2:
                        length = record["acknowledged"]
                        os.fsync(file)
                        if sync_counts(self):
                            record["synced"] = length
            finally:
                os.close(file)
            if not stopping():
                former = self.path()
                record.update(number=record["number"] + 1, tried=0, acknowledged=0, synced=0)
                os.unlink(former)

    def verify(self, bound):
        path, text, record = self.path(), self.text(), self.record
        if not os.path.exists(path):
            return [f"{path} is gone"] if record[bound] else []
        if bound == "synced" and record[bound] == 0:
            # Of a new disk that was never synced, the name may be there without the header.
            os.unlink(path)
            return []
        length = os.stat(path).st_size
        # What is not synced may be rounded up to a block.
        longest = (record["tried"] + self.piece - 1) // self.piece * self.piece
        if not record[bound] <= length <= longest:
            return [f"{path} has {length} bytes, expected {record[bound]} to {longest}"]
        with open(path, "rb") as file:
            if file.read(record[bound]) != text[: record[bound]]:
                return [f"{path}: something else within the first {record[bound]} bytes"]
        return []


class Replaced:
    """A file that is replaced by writing another one, syncing and renaming it, as programs do with their settings."""

    def __init__(self, folder, name, record):
        self.folder, self.name, self.path = folder, name, os.path.join(folder, name)
        self.record = record.setdefault(name, {"tried": 0, "acknowledged": 0, "synced": 0})

    def text(self, generation):
        size = 10 + generation * 977 % 20000
        return f"{generation} ".encode() + content(self.name, 0, 5 * generation + 1, size)

    def run(self, rng, stopping):
        while not stopping():
            generation = self.record["tried"] + 1
            draft = self.path + ".new"
            with open(draft, "wb") as file:
                file.write(self.text(generation))
                file.flush()
                os.fsync(file.fileno())
            self.record["tried"] = generation
            os.rename(draft, self.path)
            self.record["acknowledged"] = generation
            if rng.random() < 0.5:
                folder = os.open(self.folder, os.O_RDONLY)
                try:
                    os.fsync(folder)
                finally:
                    os.close(folder)
                if sync_counts(self):
                    self.record["synced"] = generation
            time.sleep(0.001)

    def verify(self, bound):
        oldest, newest = self.record[bound], self.record["tried"]
        if not os.path.exists(self.path):
            return [f"{self.name} is gone"] if oldest else []
        with open(self.path, "rb") as file:
            seen = file.read()
        if any(seen == self.text(number) for number in range(max(oldest, 1), newest + 1)):
            return []
        return [f"{self.name} ({len(seen)} bytes) is none of its generations {oldest} to {newest}"]


def workers(folder, record):
    return [
        Slots(folder, "fixed.raw", 4096, UNIT, record),
        Slots(folder, "small.raw", 1801, UNIT, record),
        Slots(folder, "nvram", 4096, BLOCK, record),
        Slots(folder, "state", 1801, BLOCK, record),
        Log(folder, ".txt", BLOCK, record),
        Log(folder, ".img", UNIT, record),
        Replaced(folder, "settings.json", record),
    ]


def write(folder, record_path, seconds):
    record = load(record_path)
    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    end = time.monotonic() + seconds
    failures = []
    if os.path.exists(record_path + ".going"):
        os.unlink(record_path + ".going")

    def work(worker):
        try:
            worker.run(random.Random(), lambda: stop.is_set() or time.monotonic() > end)
        except OSError as error:
            if error.errno not in EXPECTED:
                failures.append(f"{type(worker).__name__}: {error}")
        except (SystemExit, Exception) as error:  # an exception in a thread is not one of the program
            failures.append(f"{type(worker).__name__}: {error!r}")
        stop.set()

    threads = [threading.Thread(target=work, args=[worker]) for worker in workers(folder, record)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    save(record_path, record)
    return failures


def verify(folder, record_path, what):
    bound = {"killed": "acknowledged", "power-cut": "synced"}[what]
    record = load(record_path)
    problems = [problem for worker in workers(folder, record) for problem in worker.verify(bound)]
    # What a power cut took is not expected any more.
    for entry in record.values():
        entry["acknowledged"] = entry[bound]
    save(record_path, record)
    if not problems:
        slots = sum(sum(entry[bound]) for entry in record.values() if isinstance(entry[bound], list))
        print(f"all there: {slots} writes to slots, {record['settings.json'][bound]} replaced files")
    return problems


def load(path):
    if not os.path.exists(path):
        return {}
    with open(path, encoding="utf-8") as file:
        return json.load(file)


def save(path, record):
    with open(path + ".new", "w", encoding="utf-8") as file:
        json.dump(record, file)
    os.replace(path + ".new", path)


if __name__ == "__main__":
    RECORD = sys.argv[3] if len(sys.argv) > 3 else ""
    match sys.argv[1:]:
        case ["write", folder, record_path, *seconds]:
            problems = write(folder, record_path, float(seconds[0]) if seconds else 3600)
        case ["verify", folder, record_path, ("killed" | "power-cut") as what]:
            problems = verify(folder, record_path, what)
        case _:
            sys.exit(__doc__)
    for problem in problems[:20]:
        print(problem, file=sys.stderr)
    sys.exit(1 if problems else 0)
