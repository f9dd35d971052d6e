"""What a run depends on besides the code: machine, tools, commit; and getting it ready."""

from __future__ import annotations

import importlib.util
import json
import os
import platform
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

ENABLE_URING = Path("/sys/module/fuse/parameters/enable_uring")
REPOSITORY = Path(__file__).resolve().parent.parent


def describe() -> dict[str, Any]:
    return {
        "cpu": proc_field("/proc/cpuinfo", "model name") or platform.machine(),
        "cpus": len(os.sched_getaffinity(0)),
        "memory_bytes": int((proc_field("/proc/meminfo", "MemTotal") or "0 kB").split()[0]) * 1024,
        "kernel": platform.release(),
        "load_average": os.getloadavg()[0],
    }


def commit() -> str:
    """Of the repository; with a mark where files differ from it."""
    git = ["git", "-C", str(REPOSITORY)]
    found = subprocess.run([*git, "rev-parse", "--short=12", "HEAD"], capture_output=True, text=True)
    if found.returncode != 0:
        return "unknown"
    changed = subprocess.run([*git, "status", "--porcelain"], capture_output=True, text=True).stdout
    return found.stdout.strip() + ("+changes" if changed else "")


def target_directory() -> Path:
    """Where cargo builds."""
    command = ["cargo", "metadata", "--format-version=1", "--no-deps"]
    found = subprocess.run(command, cwd=REPOSITORY, check=True, capture_output=True, text=True)
    return Path(json.loads(found.stdout)["target_directory"])


def build(packages: list[str]) -> None:
    if packages:
        chosen = [word for package in packages for word in ("--package", package)]
        subprocess.run(["cargo", "build", "--release", *chosen], cwd=REPOSITORY, check=True)


def require(tools: Mapping[str, str]) -> None:
    """Installs the Debian packages of tools that are missing, where that is possible."""
    missing = sorted({package for program, package in tools.items() if not is_there(program)})
    if not missing:
        return
    names = " ".join(missing)
    if os.geteuid() != 0 or shutil.which("apt-get") is None:
        raise RuntimeError(f"these packages are missing: {names}")
    print(f"Installing with apt-get: {names}", flush=True)
    environment = os.environ | {"DEBIAN_FRONTEND": "noninteractive"}
    subprocess.run(["apt-get", "update", "-qq"], check=True, env=environment)
    install = ["apt-get", "install", "-qq", "--yes", "--no-install-recommends", *missing]
    subprocess.run(install, check=True, env=environment)


def newest_programs() -> Path:
    """The folder of QEMU's tools, gocryptfs and libfuse's passthrough of Debian's unstable distribution."""
    made = subprocess.run([REPOSITORY / "bench/newest"], check=True, stdout=subprocess.PIPE, text=True)
    return Path(made.stdout.strip())


def use_newest_peers() -> None:
    """Puts them before those that are installed."""
    os.environ["PATH"] = f"{newest_programs()}:{os.environ['PATH']}"


def fuse_over_io_uring_missing() -> str | None:
    """Why this machine's kernel does not offer FUSE over io_uring."""
    if not ENABLE_URING.exists():
        return "this kernel has no FUSE over io_uring"
    return None if ENABLE_URING.read_text().strip() == "Y" else f"switched off: echo Y > {ENABLE_URING}"


def is_there(tool: str) -> bool:
    """A tool is a program on the path, a file by its absolute path, or `python:` and a module's name."""
    if tool.startswith("/"):
        return Path(tool).exists()
    if tool.startswith("python:"):
        return importlib.util.find_spec(tool.removeprefix("python:")) is not None
    return shutil.which(tool) is not None


def proc_field(path: str, name: str) -> str | None:
    for line in Path(path).read_text().splitlines():
        key, _, value = line.partition(":")
        if key.strip() == name:
            return value.strip()
    return None
