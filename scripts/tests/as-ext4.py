#!/usr/bin/env python3
"""Makes the same random calls in a folder of a mount and in one beside it, and compares what they give.

    as-ext4.py MOUNT PLAIN SEED CALLS

What is in both folders stays for the next run, which may be after a remount.
"""

import errno
import os
import random
import stat
import sys

MODES = [0o644, 0o600, 0o400, 0o444, 0o755, 0o1644, 0o200, 0o000, 0o266, 0o1311]
DIR_MODES = [0o755, 0o700, 0o300, 0o311, 0o500, 0o400, 0o100, 0o000, 0o1777]
NAMES = ["a", "b", "c.raw", "d", "e"]
FLAGS = [os.O_RDONLY, os.O_WRONLY, os.O_RDWR]
MORE = [0, 0, os.O_TRUNC, os.O_APPEND, os.O_NOATIME]
LENGTHS = [0, 1, 100, 4095, 4096, 5000, 20000]


def random_path(chance):
    return "/".join(chance.choice(["d0", "d1"]) for _ in range(chance.choice([0, 1, 1, 2]))) or "."


def open_and_work(path, flags, mode, steps):
    """What the calls on one descriptor give."""
    given = []
    descriptor = os.open(path, flags, mode)
    try:
        for step in steps:
            given.append(attempt(step, descriptor))
    finally:
        os.close(descriptor)
    return given


def read_at(offset):
    return lambda descriptor: os.pread(descriptor, 30000, offset)


def write_at(offset, data):
    return lambda descriptor: os.pwrite(descriptor, data, offset)


def cut_at(length):
    return lambda descriptor: os.ftruncate(descriptor, length)


def random_steps(chance):
    steps = []
    for _ in range(chance.randrange(4)):
        offset, length = chance.choice(LENGTHS), chance.choice(LENGTHS)
        data = bytes([chance.randrange(256)]) * length
        steps.append(
            chance.choice(
                [
                    read_at(offset),
                    write_at(offset, data),
                    cut_at(length),
                    lambda descriptor: facts(os.fstat(descriptor)),
                    os.fsync,
                    lambda descriptor: os.fchmod(descriptor, 0o640),
                    lambda descriptor: os.getxattr(descriptor, "user.note"),
                    lambda descriptor: sorted(os.listdir(descriptor)),
                ]
            )
        )
    return steps


def facts(status):
    """What both must agree on."""
    is_dir = stat.S_ISDIR(status.st_mode)
    return (
        oct(status.st_mode),
        None if is_dir else status.st_nlink,
        None if is_dir else status.st_size,
    )


def random_call(chance):
    """A name for messages, and what to do with a root."""
    folder, other = random_path(chance), random_path(chance)
    path, target = f"{folder}/{chance.choice(NAMES)}", f"{other}/{chance.choice(NAMES)}"
    below = f"{folder}/{chance.choice(['d0', 'd1'])}"
    mode, dir_mode = chance.choice(MODES), chance.choice(DIR_MODES)
    flags = chance.choice(FLAGS) | chance.choice(MORE)
    making = flags | os.O_CREAT | chance.choice([0, os.O_EXCL])
    steps, length = random_steps(chance), chance.choice(LENGTHS)
    nanoseconds = chance.choice([-1, -500_000_000, -10**18 + 7, 0, 1, 1_000_000_007_000_000_005])
    at = lambda name: lambda root: os.path.join(root, name)  # noqa: E731
    own, new, sub = at(path), at(target), at(below)
    calls = {
        f"open {path} {flags:o}": lambda root: open_and_work(own(root), flags, 0, steps),
        f"open folder {below}": lambda root: open_and_work(sub(root), os.O_RDONLY, 0, steps),
        f"create {path} {making:o} {mode:o}": lambda root: open_and_work(own(root), making, mode, steps),
        f"mkdir {below} {dir_mode:o}": lambda root: os.mkdir(sub(root), dir_mode),
        f"chmod {path} {mode:o}": lambda root: os.chmod(own(root), mode),
        f"chmod folder {below} {dir_mode:o}": lambda root: os.chmod(sub(root), dir_mode),
        f"chmod folder {below} 700": lambda root: os.chmod(sub(root), 0o700),
        f"truncate {path} {length}": lambda root: os.truncate(own(root), length),
        f"setxattr {path}": lambda root: os.setxattr(own(root), "user.note", b"%d" % length),
        f"getxattr {path}": lambda root: os.getxattr(own(root), "user.note"),
        f"listxattr {path}": lambda root: [n for n in os.listxattr(own(root)) if n.startswith("user.")],
        f"removexattr {path}": lambda root: os.removexattr(own(root), "user.note"),
        f"setxattr folder {below}": lambda root: os.setxattr(sub(root), "user.note", b"%d" % length),
        f"getxattr folder {below}": lambda root: os.getxattr(sub(root), "user.note"),
        f"utime {path} {nanoseconds}": lambda root: (
            os.utime(own(root), ns=(nanoseconds, nanoseconds)),
            os.stat(own(root)).st_mtime_ns,
        ),
        f"rename {path} {target}": lambda root: os.rename(own(root), new(root)),
        f"link {path} {target}": lambda root: os.link(own(root), new(root)),
        f"symlink {path}": lambda root: os.symlink("a", own(root)),
        f"readlink {path}": lambda root: os.readlink(own(root)),
        f"unlink {path}": lambda root: os.unlink(own(root)),
        f"rmdir {below}": lambda root: os.rmdir(sub(root)),
        f"list {below}": lambda root: sorted(os.listdir(sub(root))),
        f"stat {path}": lambda root: facts(os.lstat(own(root))),
        f"stat folder {below}": lambda root: facts(os.lstat(sub(root))),
        f"access {path}": lambda root: [os.access(own(root), kind) for kind in (os.R_OK, os.W_OK, os.X_OK)],
    }
    return chance.choice(list(calls.items()))


def attempt(call, argument):
    """What a call gives, or the name of its error."""
    try:
        return call(argument)
    except OSError as error:
        return errno.errorcode.get(error.errno, error.errno)


def main():
    mount, plain, seed, calls = sys.argv[1], sys.argv[2], sys.argv[3], int(sys.argv[4])
    os.umask(0o022)
    for number in range(calls):
        # Each call by a number of its own: what one gives does not decide what the next one is.
        name, call = random_call(random.Random(f"{seed} {number}"))
        seen, expected = attempt(call, mount), attempt(call, plain)
        if seen != expected:
            sys.exit(f"seed {seed}, call {number}, {name}: {str(seen)[:300]}, expected {str(expected)[:300]}")


main()
