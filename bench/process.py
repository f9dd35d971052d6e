"""Other programs: those that answer at once, and daemons, which are watched through /proc and stopped by their id."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

TICKS_PER_SECOND = os.sysconf("SC_CLK_TCK")
STOP_SECONDS = 10.0


class Daemon:
    """One foreground process; what it says goes to a log file."""

    def __init__(self, command: list[str], log: Path) -> None:
        self.log = log
        with log.open("wb") as output:
            # A session of its own: Ctrl-C at the terminal is for the runner, which unmounts first.
            self._process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, start_new_session=True
            )

    @property
    def pid(self) -> int:
        return self._process.pid

    def has_ended(self) -> bool:
        return self._process.poll() is not None

    def last_words(self) -> str:
        return self.log.read_text(errors="replace").strip()[-2000:]

    def stop(self, grace: float = STOP_SECONDS) -> None:
        """Waits for the daemon to end by itself, which an unmounted one does; asks it to; makes it."""
        for insist in (lambda: None, self._process.terminate, self._process.kill):
            insist()
            try:
                self._process.wait(grace)
                return
            except subprocess.TimeoutExpired:
                continue


def cpu_seconds(pid: int) -> float:
    """User and system time of all threads of a process, those that have ended included."""
    stat = Path(f"/proc/{pid}/stat").read_text()
    # The second field is the program's name, in parentheses, and may hold anything.
    fields = stat[stat.rindex(")") + 2 :].split()
    user, system = int(fields[11]), int(fields[12])
    return (user + system) / TICKS_PER_SECOND


def peak_memory(pid: int) -> int:
    """The most memory that was resident at once, in bytes."""
    return status_field(pid, "VmHWM")


def resident_memory(pid: int) -> int:
    """The memory that is resident now, in bytes."""
    return status_field(pid, "VmRSS")


def status_field(pid: int, name: str) -> int:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1]) * 1024
    return 0


def call(command: list[str]) -> str:
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True)
    if done.returncode != 0:
        raise RuntimeError(f"`{' '.join(command)}` failed: {done.stderr.strip()}")
    return done.stdout


def first_line(command: list[str]) -> str:
    return call(command).strip().partition("\n")[0]
