"""The text form of a vector file; tests/vectors/README.md describes it."""

import hashlib
import re
from dataclasses import dataclass
from itertools import groupby

LINE_BYTES = 32
RUN = re.compile(r"([0-9a-f]{2}) \* ([1-9][0-9]*)")


@dataclass(frozen=True)
class VectorFile:
    """Named values, in order and possibly repeated, and the bytes they are about."""

    fields: tuple[tuple[str, str], ...]
    bodies: tuple[bytes, ...] = ()

    def all(self, name: str) -> list[str]:
        """Every value of that name."""
        return [value for field, value in self.fields if field == name]

    def get(self, name: str, default: str | None = None) -> str:
        """The one value of that name."""
        values = self.all(name)
        if not values and default is not None:
            return default
        if len(values) != 1:
            raise ValueError(f"{len(values)} values of {name}")
        return values[0]

    def bytes(self, name: str) -> bytes:
        """The one value of that name, which is hex."""
        return bytes.fromhex(self.get(name))

    def int(self, name: str) -> int:
        """The one value of that name, which is decimal."""
        return int(self.get(name))

    def render(self) -> str:
        """The file's text."""
        paragraphs = ["".join(f"{name}: {value}\n" for name, value in self.fields)]
        paragraphs += [render_bytes(body) for body in self.bodies]
        return "\n".join(paragraphs)


def render_bytes(data: bytes) -> str:
    """Hex lines, and `00 * 7000` for a run longer than a line."""
    lines: list[str] = []
    mixed = bytearray()

    def flush() -> None:
        lines.extend(mixed[at:at + LINE_BYTES].hex() for at in range(0, len(mixed), LINE_BYTES))
        mixed.clear()

    for value, group in groupby(data):
        length = len(list(group))
        if length > LINE_BYTES:
            flush()
            lines.append(f"{value:02x} * {length}")
        else:
            mixed.extend(bytes([value]) * length)
    flush()
    return "".join(f"{line}\n" for line in lines)


def parse(text: str) -> VectorFile:
    """Read what `render` writes."""
    paragraphs = text.removesuffix("\n").split("\n\n")
    fields = []
    for line in paragraphs[0].split("\n"):
        name, found, value = line.partition(": ")
        if not found:
            raise ValueError(f"not `name: value`: {line!r}")
        fields.append((name, value))
    return VectorFile(tuple(fields), tuple(parse_bytes(paragraph) for paragraph in paragraphs[1:]))


def parse_bytes(paragraph: str) -> bytes:
    """Read what `render_bytes` writes."""
    parts = []
    for line in paragraph.split("\n"):
        run = RUN.fullmatch(line)
        parts.append(bytes.fromhex(run[1]) * int(run[2]) if run else bytes.fromhex(line))
    return b"".join(parts)


def derive(label: str, length: int) -> bytes:
    """Bytes that look random and never change: SHA-256 over the label and a counter."""
    blocks = range((length + 31) // 32)
    return b"".join(hashlib.sha256(f"vmcryptfs test vector: {label}: {n}".encode()).digest() for n in blocks)[:length]


def derive_uuid(label: str) -> bytes:
    """A UUID of version 4 that never changes."""
    raw = bytearray(derive(f"uuid: {label}", 16))
    raw[6] = raw[6] & 0x0F | 0x40
    raw[8] = raw[8] & 0x3F | 0x80
    return bytes(raw)
