#!/usr/bin/env python3
"""Reads what strace saw of `vmcryptfs encrypt`, `decrypt` and `rekey --deep`, and checks the order that a power cut would test.

    sync-order.py TRACE...

A file under construction is renamed or linked to its own name only after a sync behind its last write. A home counts as
encrypted, its header changes, or goes, only after each folder in which names changed was synced.
"""
import os
import re
import sys

CALL = re.compile(r"^\d+ +(\w+)\((.*)\) += (-?\d+)")
# strace splits a call that is under way while another thread does something.
BEGUN = re.compile(r"^(\d+) +(\w+)\((.*) <unfinished \.\.\.>$")
RESUMED = re.compile(r"^(\d+) +<\.\.\. \w+ resumed>(.*)$")
FD = re.compile(r"^\w+<([^>]*)>")
NEW, STATES = ".vmcryptfs-new-", ("vmcryptfs.home", ".vmcryptfs-encrypting", ".vmcryptfs-decrypting")
CHANGES = {"pwrite64", "ftruncate", "fsetxattr", "fchmod", "fchown", "utimensat"}


def names(arguments):
    """Pairs of a directory and a name in it, as absolute paths."""
    return [os.path.join(folder, name) for folder, name in re.findall(r"<([^>]*)>, \"([^\"]*)\"", arguments)]


def whole_lines(trace):
    """Calls in the order of their ends, each as one line."""
    begun = {}
    for line in open(trace, encoding="utf-8", errors="replace"):
        if match := BEGUN.match(line):
            begun[match[1]] = f"{match[1]} {match[2]}({match[3]}"
        elif match := RESUMED.match(line):
            yield begun.pop(match[1], "") + match[2]
        else:
            yield line


def check(trace):
    unsynced, dirty_folders, renamed, turns = set(), set(), 0, 0
    for line in whole_lines(trace):
        match = CALL.match(line)
        if not match or match[3].startswith("-"):
            continue
        call, arguments = match[1], match[2]
        opened = FD.match(arguments)
        path = opened[1] if opened else ""
        if call in CHANGES and os.path.basename(path).startswith(NEW):
            unsynced.add(path)
        elif call == "pwrite64" and os.path.basename(path) in STATES:
            assert not dirty_folders, f"{trace}: {dirty_folders} not synced when {path} is written"
            turns += 1
        elif call in ("fsync", "fdatasync"):
            unsynced.discard(path)
            dirty_folders.discard(path)
        elif call in ("renameat", "renameat2", "linkat"):
            source, target = names(arguments)[:2]
            if os.path.basename(source).startswith(NEW):
                assert source not in unsynced, f"{trace}: {source} is not synced when it becomes {target}"
                renamed += 1
                if os.path.basename(target) not in STATES:
                    dirty_folders.add(os.path.dirname(target))
            elif os.path.basename(source) in STATES:
                # Decrypting begins behind the disks; what of their names is lost then, the next run does again.
                assert os.path.basename(target) == ".vmcryptfs-decrypting" or not dirty_folders, f"{trace}: {dirty_folders} not synced when {source} becomes {target}"
                turns += 1
        elif call == "unlinkat" and os.path.basename(names(arguments)[0]) in STATES:
            assert not dirty_folders, f"{trace}: {dirty_folders} not synced when the header goes"
            turns += 1
    assert renamed > 5 and turns > 0, f"{trace}: {renamed} new forms and {turns} changes of state prove nothing"
    print(f"{os.path.basename(trace)}: {renamed} new forms, {turns} changes of state")


for trace in sys.argv[1:]:
    check(trace)
