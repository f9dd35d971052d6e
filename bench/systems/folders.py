"""Other encrypted file systems for a folder: each shows a file in a mounted folder, encrypted in another one."""

from __future__ import annotations

import secrets
from pathlib import Path

from process import call, first_line
from systems.base import FuseSystem, new_file


class FolderSystem(FuseSystem):
    """Encrypts a folder file by file."""

    encrypts = True

    def after_mount(self) -> None:
        new_file(self.target(), self.size)

    def passphrase_file(self) -> Path:
        return self.folder / "passphrase"

    def cipher_folder(self) -> Path:
        return self.folder / "cipher"

    def prepare(self) -> None:
        make_passphrase(self.passphrase_file())
        self.cipher_folder().mkdir()
        self.initialise()

    def initialise(self) -> None:
        """Makes an encrypted folder of the empty one."""


class Gocryptfs(FolderSystem):
    """The most used encrypted overlay for Linux, with its default cipher (AES-256-GCM, 4096-byte blocks)."""

    name = "gocryptfs"
    tools = FuseSystem.tools | {"gocryptfs": "gocryptfs"}

    def initialise(self) -> None:
        # The cost of deriving a key from the passphrase plays no part after the mount.
        call(self._gocryptfs("-init", "-scryptn", "10", str(self.cipher_folder())))

    def commands(self) -> list[list[str]]:
        return [self._gocryptfs("-fg", str(self.cipher_folder()), str(self.mountpoint))]

    def version(self) -> str:
        return first_line(["gocryptfs", "--version"])

    def _gocryptfs(self, *arguments: str) -> list[str]:
        return ["gocryptfs", "-q", "-nosyslog", "-passfile", str(self.passphrase_file()), *arguments]


class Securefs(FolderSystem):
    """Format 4, its default: AES-256-GCM, 4096-byte blocks."""

    name = "securefs"
    tools = FuseSystem.tools | {"securefs": "securefs"}

    def initialise(self) -> None:
        cheap = ("--pbkdf", "pkcs5-pbkdf2-hmac-sha256", "-r", "1000")
        call(["securefs", "create", *cheap, *self._passphrase(), str(self.cipher_folder())])

    def commands(self) -> list[list[str]]:
        return [["securefs", "mount", *self._passphrase(), str(self.cipher_folder()), str(self.mountpoint)]]

    def version(self) -> str:
        return first_line(["securefs", "version"])

    def _passphrase(self) -> tuple[str, str]:
        return "--pass", self.passphrase_file().read_text()


class Encfs(FolderSystem):
    """Its `standard` mode: AES-192-CBC, blocks of 1024 bytes; no longer maintained, still in use."""

    name = "encfs"
    tools = FuseSystem.tools | {"encfs": "encfs"}

    def commands(self) -> list[list[str]]:
        passphrase = f"--extpass=cat {self.passphrase_file()}"
        return [["encfs", "-f", "--standard", passphrase, str(self.cipher_folder()), str(self.mountpoint)]]

    def version(self) -> str:
        return "encfs 1.9"


def make_passphrase(path: Path) -> None:
    path.touch(mode=0o600)
    path.write_text(secrets.token_hex(16))
