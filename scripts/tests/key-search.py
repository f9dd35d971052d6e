#!/usr/bin/env python3
"""Searches a mount's process for its keys, as whoever gets a core dump of it, its command line or its environment would.

    key-search.py unlocked|locked PID PRIMARY-KEY-FILE VM-FOLDER PLANTED TEXT...

The keys are computed from the files by the second implementation of the format. None may be in memory that a dump would
contain (its regions lack the flag `dd` in smaps), in /proc/PID/cmdline or environ, or in a TEXT (logs, events, what was
printed), be it as bytes, hex or base64.
So that this proves something, PLANTED, a text of the process's environment, must be found in dumpable memory, and DEKs of what
is unlocked in memory that is locked (`lo`), left out of dumps (`dd`) and wiped in children (`wf`). DEKs of what is locked
must be nowhere, neither must their halves, with which the expanded keys of a cipher begin.
"""

import base64
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from vmcformat import component, errors, header, native

PROTECTED = {"lo", "dd", "wf"}


def keys_of(primary_path, folder):
    """Names and bytes of the primary key, and of each KEK and DEK of a VM folder."""
    primary = native.decode_primary(Path(primary_path).read_bytes())
    found = {"the primary key": primary.key}
    for path in sorted(Path(folder).iterdir()):
        if not path.is_file():
            continue
        with path.open("rb") as file:
            try:
                part = component.read_component(file)
            except errors.Foreign:
                continue
        kek = native.open_key_id(primary, part.header.slots[0].key_id)
        found[f"the KEK of {path.name}"] = kek
        found[f"the DEK of {path.name}"] = header.unlock(part.copy, part.header, kek)
    return found


def regions(pid):
    """Start, end and flags of each region that can be read."""
    for line in Path(f"/proc/{pid}/smaps").read_text(encoding="utf-8").splitlines():
        first, *rest = line.split()
        if first == "VmFlags:":
            if readable:
                yield start, end, set(rest)
        elif not first.endswith(":"):
            start, end = (int(number, 16) for number in first.split("-"))
            readable = rest[0].startswith("r") and not line.endswith(("[vvar]", "[vvar_vclock]", "[vsyscall]"))


def memory(pid):
    """Bytes and flags of each region."""
    with open(f"/proc/{pid}/mem", "rb", buffering=0) as file:
        for start, end, flags in regions(pid):
            file.seek(start)
            data = bytearray()
            while len(data) < end - start and (more := file.read(min(end - start - len(data), 1 << 24))):
                data += more
            yield bytes(data), flags


def written_in(key, data):
    """Whether a key stands in some bytes in any form that programs write."""
    hexadecimal, decimal = key.hex().encode(), ", ".join(map(str, key[:16])).encode()
    forms = [key, hexadecimal, hexadecimal.upper(), decimal, base64.b64encode(key)[:40], base64.urlsafe_b64encode(key)[:40]]
    return any(form in data for form in forms)


def search(state, pid, primary_path, folder, planted, *texts):
    """What is wrong."""
    keys = keys_of(primary_path, folder)
    deks = {name: key for name, key in keys.items() if name.startswith("the DEK")}
    problems, found_planted, kept = [], False, set()
    for data, flags in memory(pid):
        if "dd" not in flags:
            found_planted |= planted.encode() in data
            problems += [f"{name} is in dumpable memory" for name, key in keys.items() if written_in(key, data)]
        for name, key in deks.items():
            if key in data and PROTECTED <= flags:
                kept.add(name)
            elif key in data:
                problems.append(f"{name} is in memory with the flags {sorted(flags)}, expected {sorted(PROTECTED)} among them")
            if state == "locked" and (key[:32] in data or key[-32:] in data):
                problems.append(f"{name}, which is locked, is still in memory, at least a half of it")
    for path in (f"/proc/{pid}/cmdline", f"/proc/{pid}/environ", *texts):
        text = Path(path).read_bytes()
        problems += [f"{name} is in {path}" for name, key in keys.items() if written_in(key, text)]
    if not found_planted:
        problems.append("the planted text was not found: the search proves nothing")
    if state == "unlocked":
        problems += [f"{name} was not found at all: the search proves nothing" for name in deks.keys() - kept]
    print(f"searched for {len(keys)} keys; {len(kept)} DEKs are in protected memory")
    return problems


if __name__ == "__main__":
    if len(sys.argv) < 7 or sys.argv[1] not in ("unlocked", "locked"):
        sys.exit(__doc__)
    said = search(*sys.argv[1:])
    for problem in said:
        print(problem, file=sys.stderr)
    sys.exit(1 if said else 0)
