#!/usr/bin/env python3
"""Changes files of a mount in every way that is durable when it returns, and checks later that all of it is there.

    sync-flags.py prepare FOLDER            makes the files, and makes them durable
    sync-flags.py write FOLDER OPTION       changes them; OPTION is that of the mount: none, dirsync or sync
    sync-flags.py verify FOLDER OPTION

Between write and verify the power is cut. Each way has files of its own: a sync of one file says nothing of another.
"""

import mmap
import os
import sys

OLD, NEW, LENGTH = b"o", b"n", 3 * 4096 + 100
FLAGS = {
    "O_SYNC": (os.O_SYNC, 0),
    "O_DSYNC": (os.O_DSYNC, 0),
    "RWF_SYNC": (0, os.RWF_SYNC),
    "RWF_DSYNC": (0, os.RWF_DSYNC),
    "option": (0, 0),
}
# Name of the file, and flags that decide who caches it.
FILES = {
    "{}.raw": os.O_RDWR,
    "{}-past.raw": os.O_RDWR | os.O_DIRECT,
    "{}-cached": os.O_RDWR,
    "{}-cached-past": os.O_RDWR | os.O_DIRECT,
    "{}-uncached": os.O_WRONLY,
    ".raw/{}-image.raw": os.O_RDWR,
}
DESCRIPTOR = """# Disk DescriptorFile
version=1
CID=fffffffe
parentCID=ffffffff
createType="monolithicFlat"
RW 64 FLAT "{}-image-flat.vmdk" 0
"""


def ways(option):
    return [flag for flag in FLAGS if flag != "option" or option == "sync"]


def write_all(path, data, offset=0, flags=0):
    file = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    assert os.pwritev(file, [data], offset, flags) == len(data)
    return file


def prepare(folder):
    for flag in FLAGS:
        for name in FILES:
            path = os.path.join(folder, name.format(flag))
            if name.startswith("."):
                extent = os.path.join(folder, f"{flag}-image-flat.vmdk")
                made = [write_all(extent, OLD * 32768)]
                made.append(write_all(os.path.join(folder, f"{flag}-image.vmdk"), DESCRIPTOR.format(flag).encode()))
            else:
                made = [write_all(path, OLD * 8192)]
            made.append(write_all(os.path.join(folder, f"{flag}-space.raw"), OLD * 8192))
            for file in made:
                os.fsync(file)
                os.close(file)
    for name in "renamed-old", "removed", "linked-old", "changed", "cut":
        file = write_all(os.path.join(folder, name), OLD * 8192)
        os.fsync(file)
        os.close(file)
    directory = os.open(folder, os.O_RDONLY)
    os.fsync(directory)
    os.close(directory)


def pieces(name, flags):
    """What is written, and where: a piece within the file and one that makes it longer, where it can be longer."""
    if flags & os.O_DIRECT:
        return [(4096, 4096), (8192, 8192)]
    if name.startswith("."):
        return [(5000, 9000)]
    return [(100, 5000), (8000, LENGTH - 8000)]


def write(folder, option):
    memory = mmap.mmap(-1, 65536)
    memory.write(NEW * 65536)
    for flag in ways(option):
        of_file, of_write = FLAGS[flag]
        for name, flags in FILES.items():
            file = os.open(os.path.join(folder, name.format(flag)), flags | of_file)
            for offset, length in pieces(name, flags):
                written = os.pwritev(file, [memoryview(memory)[:length]], offset, of_write)
                assert written == length, f"{name}: {written} bytes of {length}"
            os.close(file)
        if of_file or option == "sync":
            file = os.open(os.path.join(folder, f"{flag}-space.raw"), os.O_RDWR | of_file)
            os.posix_fallocate(file, 0, 65536)
            os.close(file)
    if option in ("dirsync", "sync"):
        at = lambda name: os.path.join(folder, name)
        os.close(os.open(at("made"), os.O_WRONLY | os.O_CREAT))
        os.close(os.open(at("made.raw"), os.O_WRONLY | os.O_CREAT))
        os.mkdir(at("folder"))
        os.symlink("target", at("folder/link"))
        os.mkfifo(at("fifo"))
        os.rename(at("renamed-old"), at("folder/renamed"))
        os.unlink(at("removed"))
        os.link(at("linked-old"), at("linked"))
    if option == "sync":
        os.chmod(at("changed"), 0o640)
        os.setxattr(at("changed"), "user.a", b"value")
        os.truncate(at("cut"), 5000)


def verify(folder, option):
    wrong = []

    def expect(what, is_so):
        if not is_so:
            wrong.append(what)

    for flag in ways(option):
        for name, flags in FILES.items():
            with open(os.path.join(folder, name.format(flag)), "rb") as file:
                seen = file.read()
            for offset, length in pieces(name, flags):
                expect(f"{flag} {name}: {length} bytes at {offset}", seen[offset : offset + length] == NEW * length)
        if FLAGS[flag][0] or option == "sync":
            size = os.stat(os.path.join(folder, f"{flag}-space.raw")).st_size
            expect(f"{flag}: fallocate to 65536 left {size}", size == 65536)
    at = lambda name: os.path.join(folder, name)
    if option in ("dirsync", "sync"):
        for name in "made", "made.raw", "folder", "fifo", "folder/renamed", "linked":
            expect(f"{name} is gone", os.path.lexists(at(name)))
        expect("the link is gone", os.path.islink(at("folder/link")) and os.readlink(at("folder/link")) == "target")
        for name in "renamed-old", "removed":
            expect(f"{name} is back", not os.path.lexists(at(name)))
        with open(at("made.raw"), "rb") as disk:
            expect("made.raw is not empty", disk.read() == b"")
    if option == "sync":
        expect("chmod is lost", os.stat(at("changed")).st_mode & 0o777 == 0o640)
        expect("an attribute is lost", "user.a" in os.listxattr(at("changed")))
        with open(at("cut"), "rb") as file:
            expect("truncate is lost", file.read() == OLD * 5000)
    return wrong


match sys.argv[1:]:
    case ["prepare", to]:
        prepare(to)
    case ["write", to, mounted_with]:
        write(to, mounted_with)
    case ["verify", to, mounted_with]:
        if problems := verify(to, mounted_with):
            sys.exit("\n".join(problems))
    case _:
        sys.exit(__doc__)
