"""Ours, in each way that it can be run."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

import machine
from process import call, first_line
from systems.base import FuseSystem


class Vmcryptfs(FuseSystem):
    """Ours, as it is installed: native provider, the fastest engine of this CPU, sectors of 4096 bytes; the transport that
    every kernel has."""

    name = "vmcryptfs"
    cargo_package = "vmcryptfs"
    encrypts = True
    is_ours = True
    mount_options: ClassVar[tuple[str, ...]] = ("--transport", "dev-fuse")

    def prepare(self) -> None:
        self._call("provider", "add", "native", "bench")
        self._call("create", str(self._vm_folder()))
        self._call("create-disk", str(self._vm_folder() / "disk.raw"), "--size", str(self.size))

    def commands(self) -> list[list[str]]:
        paths = (str(self._vm_folder()), str(self.mountpoint))
        return [self._vmcryptfs("mount", *paths, "--foreground", *self.mount_options)]

    def version(self) -> str:
        return first_line([str(self.binaries / "vmcryptfs"), "--version"])

    def _vm_folder(self) -> Path:
        return self.folder / "vm"

    def _vmcryptfs(self, *arguments: str) -> list[str]:
        return [str(self.binaries / "vmcryptfs"), "--config", str(self.folder / "config.toml"), *arguments]

    def _call(self, *arguments: str) -> None:
        call(self._vmcryptfs(*arguments))


class VmcryptfsUring(Vmcryptfs):
    """Ours by FUSE over io_uring."""

    name = "vmcryptfs-io-uring"
    mount_options = ("--transport", "io-uring")

    @classmethod
    def missing(cls) -> str | None:
        return machine.fuse_over_io_uring_missing()


class VmcryptfsAwsLc(Vmcryptfs):
    """Ours with AWS-LC, which on a CPU with AVX-512 is what `vmcryptfs` has."""

    name = "vmcryptfs-aws-lc"
    mount_options = (*Vmcryptfs.mount_options, "--engine", "aws-lc")


class VmcryptfsRustCrypto(Vmcryptfs):
    """Ours with the portable cipher engine."""

    name = "vmcryptfs-rustcrypto"
    mount_options = (*Vmcryptfs.mount_options, "--engine", "rustcrypto")
