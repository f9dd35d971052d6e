"""The sets under tests/vectors: writing them, and checking what is committed."""

from collections.abc import Callable
from pathlib import Path

from . import (
    checks,
    cluster_cases,
    disk_cases,
    dump_cases,
    erasure_cases,
    header_bad,
    header_good,
    home_cases,
    journal_cases,
    kept_cases,
    key_cases,
    manifest_cases,
    members_cases,
    native_cases,
    push_cases,
    saved_cases,
)
from .native import has_argon2
from .vectorfile import VectorFile, parse

Maker = Callable[[], dict[str, VectorFile]]
Reader = Callable[[VectorFile], None]

SETS: dict[str, tuple[Maker, Reader]] = {
    "header": (lambda: {**header_good.vectors(), **header_bad.vectors()}, checks.read_header),
    "pair": (key_cases.pair_vectors, checks.read_pair),
    "wrap": (key_cases.wrap_vectors, checks.read_wrap),
    "sectors": (disk_cases.sector_vectors, checks.read_sectors),
    "length": (disk_cases.length_vectors, checks.read_length),
    "journal": (journal_cases.vectors, checks.read_journal),
    "members": (members_cases.vectors, checks.read_members),
    "home-file": (home_cases.file_vectors, checks.read_home_file),
    "home-value": (home_cases.value_vectors, checks.read_home_value),
    "manifest": (manifest_cases.vectors, checks.read_manifest),
    "saved": (saved_cases.vectors, checks.read_saved),
    "erasure": (erasure_cases.vectors, checks.read_erasure),
    "cluster": (lambda: {**cluster_cases.vectors(), **push_cases.vectors(), **kept_cases.vectors()}, checks.read_cluster),
    "dump": (dump_cases.vectors, checks.read_dump),
    "native": (native_cases.vectors, checks.read_native),
}


def texts() -> dict[str, str]:
    """Path below tests/vectors to content, of every vector that can be made here."""
    return {f"{folder}/{name}.txt": vector.render()
            for folder, (make, _) in SETS.items() for name, vector in make().items()}


def skipped(path: str) -> bool:
    """Whether a file can be neither made nor read here, for lack of Argon2id."""
    prefixes = (f"native/{native_cases.BACKUP_PREFIX}", f"cluster/{cluster_cases.ADMIN_KEY_PREFIX}",
                f"dump/{dump_cases.PASSPHRASE_PREFIX}")
    return path.startswith(prefixes) and not has_argon2()


def committed(root: Path) -> list[str]:
    """The vector files that are there."""
    return sorted(str(path.relative_to(root)) for folder in SETS for path in (root / folder).glob("*.txt"))


def generate(root: Path) -> int:
    """Write every vector, remove those that are no longer made; how many were written."""
    made = texts()
    for path in committed(root):
        if path not in made and not skipped(path):
            (root / path).unlink()
    for path, text in made.items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_text(text, encoding="utf-8")
    return len(made)


def failures(root: Path) -> list[str]:
    """What is wrong with the files that are there: not as generated, or not as they themselves expect."""
    made = texts()
    found = [f"{path}: missing" for path in made if not (root / path).is_file()]
    for path in committed(root):
        if skipped(path):
            continue
        text = (root / path).read_text(encoding="utf-8")
        if path not in made:
            found.append(f"{path}: no longer generated")
        elif text != made[path]:
            found.append(f"{path}: differs from what is generated")
        found += [f"{path}: {failure}" for failure in [read_failure(path, text)] if failure]
    return found


def read_failure(path: str, text: str) -> str | None:
    """Read one vector file as its set is read; what disagrees."""
    _, read = SETS[path.split("/")[0]]
    try:
        checks.expecting(read)(parse(text))
    except (AssertionError, ValueError) as failure:
        return str(failure)
    return None
