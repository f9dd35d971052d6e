#!/usr/bin/python3
"""A second implementation of docs/FORMAT.md: makes and checks tests/vectors, reads and makes disks and homes.

Needs python3-cryptography, and python3-argon2 for backups and admin keys. Keys are given on the command line, as fits a test tool: do
not use it with keys that matter.
"""

import argparse
import os
import sys
from collections.abc import Callable
from pathlib import Path
from uuid import UUID

sys.dont_write_bytecode = True

from vmcformat import component, header, home_file, native, saved, sets, stores  # noqa: E402 (after the line above, on purpose)
from vmcformat.errors import FormatError  # noqa: E402
from vmcformat.header_good import decoded_fields  # noqa: E402

TESTS = Path(__file__).resolve().parent.parent / "tests"
VECTORS = TESTS / "vectors"
STORES = TESTS / "stores"


def kek_of(text: str) -> bytes:
    """A KEK from its hex."""
    kek = bytes.fromhex(text)
    if len(kek) != 32:
        raise argparse.ArgumentTypeError("a KEK has 32 bytes")
    return kek


def generate(args: argparse.Namespace) -> int:
    """Write the vector files."""
    print(f"{sets.generate(args.out)} files in {args.out}")
    warn_of_argon2()
    return 0


def check(args: argparse.Namespace) -> int:
    """Regenerate the vectors, compare, and read every vector and every golden store."""
    failures = sets.failures(args.vectors) + stores.failures(args.stores)
    for failure in failures:
        print(failure, file=sys.stderr)
    warn_of_argon2()
    count = len(sets.committed(args.vectors)) + len(stores.committed(args.stores))
    print(f"{count} files, {len(failures)} failures")
    return 1 if failures else 0


def golden(args: argparse.Namespace) -> int:
    """Write the golden stores of the current version that do not exist yet; what exists is never changed."""
    for name in stores.write_missing(args.out):
        print(name)
    return 0


def warn_of_argon2() -> None:
    """Say that backups were left out, where they were."""
    if not native.has_argon2():
        print("vectors.py: no Argon2id here: the vectors of backups and admin keys were left alone", file=sys.stderr)


def info(args: argparse.Namespace) -> int:
    """Print a component's header."""
    with args.file.open("rb") as file:
        found = component.read_component(file)
    for name, copy in zip(("first", "second"), found.copies):
        print(f"{name}_copy: {copy_state(copy, found.copy)}")
    print_header(found, args.kek_hex)
    return 0


def print_header(found: component.Component | saved.Saved, kek_hex: str | None) -> None:
    """Print a header's fields and, given the KEK, that it is authentic."""
    for name, value in decoded_fields(found.header):
        print(f"{name}: {value}")
    if kek_hex is not None:
        header.unlock(found.copy, found.header, kek_hex)
        print("authentic: yes")


def copy_state(copy: bytes, used: bytes) -> str:
    """What a copy is, beside the one in use."""
    try:
        sequence = header.decode(copy).sequence
    except FormatError as refusal:
        return f"{refusal.kind}: {refusal}"
    return f"sequence {sequence}{', in use' if copy == used else ''}"


def native_kek(args: argparse.Namespace) -> int:
    """Print the KEK that a key id of the native provider names."""
    primary = native.decode_primary(args.primary_key_file.read_bytes())
    print(native.open_key_id(primary, args.key_id).hex())
    return 0


def native_backup(args: argparse.Namespace) -> int:
    """Open a backup file."""
    passphrase = args.passphrase_file.read_text(encoding="utf-8").removesuffix("\n")
    backup, primary = native.open_backup(args.backup_file.read_bytes(), passphrase)
    print(f"provider: {backup.provider}\nuuid: {UUID(bytes=primary.uuid)}\nkey: {primary.key.hex()}")
    return 0


def saved_header(args: argparse.Namespace) -> int:
    """Print a saved header."""
    found = saved.decode_saved(args.file.read_bytes())
    print(f"time: {found.time}")
    print_header(found, args.kek_hex)
    return 0


def decrypt(args: argparse.Namespace) -> int:
    """Decrypt a whole disk; without --out only its digest is of interest."""
    with args.disk.open("rb") as file:
        found = component.read_component(file)
        if found.header.kind != header.DISK:
            raise FormatError("not a disk")
        if args.out is None:
            plain_len, digest = component.decrypt_disk(file, found, args.kek_hex, None)
        else:
            with args.out.open("wb") as out:
                plain_len, digest = component.decrypt_disk(file, found, args.kek_hex, out)
    print(f"plain_len: {plain_len}\nsha256: {digest}")
    return 0


def encrypt(args: argparse.Namespace) -> int:
    """Make a disk from a plain file."""
    copy, dek = component.make_header(header.DISK, args.sector_size, args.data_offset, args.label, (), args.provider,
                                      args.key_id, args.kek_hex, args.owner.bytes if args.owner else None)
    component.create_disk(args.plain, args.disk, copy, dek)
    return 0


def home(args: argparse.Namespace) -> int:
    """Make a home header's file. Only under the name vmcryptfs.home is it a home."""
    copy, _ = component.make_header(header.HOME, 4096, 0, args.label, tuple(args.disk_name), args.provider,
                                    args.key_id, args.kek_hex)
    component.create_home(args.file, copy)
    return 0


def home_read(args: argparse.Namespace) -> int:
    """Read a home file, a symbolic link's target, or with --xattr an attribute's value."""
    with args.home.open("rb") as file:
        found = component.read_component(file)
    dek = header.unlock(found.copy, found.header, args.kek_hex)
    if args.xattr is not None:
        head = b"" if args.file.is_dir() else args.file.open("rb").read(home_file.HEADER_LEN)
        found_header = home_file.decode_header(head, dek)
        bound = home_file.xattr_bound(found_header.keys.file_id if found_header else None, args.xattr.encode())
        content = [home_file.open_value(dek, bound, os.getxattr(args.file, args.xattr))]
    elif args.file.is_symlink():
        content = [home_file.open_target(dek, os.readlink(args.file))]
    else:
        with args.file.open("rb") as file:
            _, blocks = home_file.read_file(lambda at, length: component.read_at(file, at, length),
                                            os.fstat(file.fileno()).st_size, dek)
            content = list(blocks)
    with args.out.open("wb") if args.out else open(1, "wb", closefd=False) as out:
        out.writelines(content)
    return 0


def parser() -> argparse.ArgumentParser:
    """The command line."""
    top = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    verbs = top.add_subparsers(required=True, metavar="VERB")

    def verb(name: str, run: Callable[[argparse.Namespace], int]) -> argparse.ArgumentParser:
        added = verbs.add_parser(name, help=run.__doc__, description=run.__doc__)
        added.set_defaults(run=run)
        return added

    def add_key(added: argparse.ArgumentParser, required: bool) -> None:
        added.add_argument("--kek-hex", type=kek_of, metavar="HEX", required=required)

    def add_new(added: argparse.ArgumentParser) -> None:
        add_key(added, required=True)
        added.add_argument("--provider", required=True, metavar="NAME")
        added.add_argument("--key-id", required=True, metavar="ID")
        added.add_argument("--label", default="")

    verb("generate", generate).add_argument("--out", type=Path, default=VECTORS, metavar="DIR")
    added = verb("check", check)
    added.add_argument("--vectors", type=Path, default=VECTORS, metavar="DIR")
    added.add_argument("--stores", type=Path, default=STORES, metavar="DIR")
    verb("stores", golden).add_argument("--out", type=Path, default=STORES, metavar="DIR")

    added = verb("info", info)
    added.add_argument("file", type=Path)
    add_key(added, required=False)

    added = verb("native-kek", native_kek)
    added.add_argument("primary_key_file", type=Path)
    added.add_argument("key_id")

    added = verb("native-backup", native_backup)
    added.add_argument("backup_file", type=Path)
    added.add_argument("--passphrase-file", type=Path, required=True, metavar="FILE")

    added = verb("saved-header", saved_header)
    added.add_argument("file", type=Path)
    add_key(added, required=False)

    added = verb("decrypt", decrypt)
    added.add_argument("disk", type=Path)
    add_key(added, required=True)
    added.add_argument("--out", type=Path, metavar="FILE")

    added = verb("encrypt", encrypt)
    added.add_argument("plain", type=Path)
    added.add_argument("disk", type=Path)
    add_new(added)
    added.add_argument("--owner", type=UUID, metavar="UUID", help="the home that it belongs to")
    added.add_argument("--sector-size", type=int, default=4096, metavar="N")
    added.add_argument("--data-offset", type=int, default=8 * header.MIB, metavar="BYTES")

    added = verb("home-read", home_read)
    added.add_argument("home", type=Path, help="vmcryptfs.home")
    added.add_argument("file", type=Path)
    add_key(added, required=True)
    added.add_argument("--xattr", metavar="NAME")
    added.add_argument("--out", type=Path, metavar="FILE")

    added = verb("home", home)
    added.add_argument("file", type=Path)
    add_new(added)
    added.add_argument("--disk-name", action="append", default=[], metavar="PATTERN")
    return top


def main() -> int:
    """Run a verb; refusals are one line on stderr and exit code 1."""
    args = parser().parse_args()
    try:
        status: int = args.run(args)
        return status
    except FormatError as refusal:
        print(f"vectors.py: {refusal.kind}: {refusal}", file=sys.stderr)
    except (OSError, native.NoArgon2) as error:
        print(f"vectors.py: {error}", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main())
