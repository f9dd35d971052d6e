#!/usr/bin/env python3
"""Searches a mount's process for its keys, as whoever gets a core dump of it, its command line or its environment would.

    key-search.py unlocked|locked PID PRIMARY-KEY-FILE VM-FOLDER PLANTED [TEXT...]

The keys are computed from the files by the second implementation of the format. None may be in memory that a dump would
contain (its regions lack the flag `dd` in smaps), in /proc/PID/cmdline or environ, or in a TEXT (logs, events, what was
printed), be it as bytes, hex or base64.
So that this proves something, PLANTED, a text of the process's environment, must be found in dumpable memory, and DEKs of what
is unlocked in memory that is locked (`lo`), left out of dumps (`dd`) and wiped in children (`wf`).

Of what is locked, no key may be anywhere, neither a DEK nor what is derived from it, nor may eight bytes of a round key of an
expanded one. The same holds for the keys of home files in either state: none of them is open when this runs.
"""

import base64
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from vmcformat import component, errors, header, home_file, native, xaes

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


def home_keys(folder, dek):
    """Names and bytes of the keys of home files, and of those that their blocks were sealed with."""
    found = {}
    for path in sorted(Path(folder).rglob("*")):
        if not path.is_file() or not (stored := path.read_bytes()).startswith(home_file.MAGIC):
            continue
        keys = home_file.file_keys(dek, stored[16:32])
        found[f"the key of {path.name}"] = keys.encryption
        found[f"the authentication key of {path.name}"] = keys.authentication
        for _, entry in home_file.decode_pair(stored[home_file.pair_at(0):][:home_file.PAIR_LEN]):
            found[f"a key of blocks of {path.name}"] = xaes.derived_key(keys.encryption, entry.nonce)
    return found


def _substitution():
    """The S-box of AES (FIPS 197, section 5.1.1)."""
    box, power, inverse = [0x63] * 256, 1, 1
    while True:
        power ^= (power << 1) ^ (0x11b if power & 0x80 else 0)
        for shift in (1, 2, 4):
            inverse ^= inverse << shift & 0xff
        inverse ^= 0x09 if inverse & 0x80 else 0
        turned = [(inverse << by | inverse >> (8 - by)) & 0xff for by in range(5)]
        box[power] = 0x63 ^ turned[0] ^ turned[1] ^ turned[2] ^ turned[3] ^ turned[4]
        if power == 1:
            return bytes(box)


SUBSTITUTION = _substitution()


def expanded(key):
    """The round keys of an AES-256 key in a row (FIPS 197, section 5.2)."""
    words = [key[at:at + 4] for at in range(0, 32, 4)]
    for number in range(8, 60):
        word = words[-1]
        if number % 8 == 0:
            word = (word[1:] + word[:1]).translate(SUBSTITUTION)
            word = bytes((word[0] ^ 1 << (number // 8 - 1),)) + word[1:]
        elif number % 8 == 4:
            word = word.translate(SUBSTITUTION)
        words.append(bytes(a ^ b for a, b in zip(word, words[-8])))
    return b"".join(words)


def pieces_of(keys):
    """Eight bytes at a time, as a number, of each key and what AES makes of it: compilers align both so."""
    pieces = {}
    for name, key in keys.items():
        for half in (key[at:at + 32] for at in range(0, len(key), 32)):
            pieces |= dict.fromkeys(memoryview(expanded(half)).cast("Q"), name)
    return pieces


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
    home = deks[f"the DEK of {header.HOME_FILE}"]
    gone = home_keys(folder, home)
    if state == "locked":
        gone |= deks | {"the key of small values": home_file.value_key(home)}
    pieces = pieces_of(gone)
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
        found = set(pieces).intersection(memoryview(data[:len(data) // 8 * 8]).cast("Q"))
        problems += sorted({f"a part of {pieces[piece]} is in memory, as it is or expanded" for piece in found})
    for path in (f"/proc/{pid}/cmdline", f"/proc/{pid}/environ", *texts):
        text = Path(path).read_bytes()
        problems += [f"{name} is in {path}" for name, key in (keys | gone).items() if written_in(key, text)]
    if not found_planted:
        problems.append("the planted text was not found: the search proves nothing")
    if state == "unlocked":
        problems += [f"{name} was not found at all: the search proves nothing" for name in deks.keys() - kept]
    print(f"searched for {len(keys)} keys, and for {len(gone)} as AES expands them; {len(kept)} DEKs are in protected memory")
    return problems


if __name__ == "__main__":
    if len(sys.argv) < 6 or sys.argv[1] not in ("unlocked", "locked"):
        sys.exit(__doc__)
    said = search(*sys.argv[1:])
    for problem in said:
        print(problem, file=sys.stderr)
    sys.exit(1 if said else 0)
