"""Jobs, and one run of one of them. A new job is one file in jobs/."""

from __future__ import annotations

import configparser
import json
import os
import random
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

JOBS_FOLDER = Path(__file__).parent / "jobs"
QUICK_JOBS = (
    "randread-4k-qd1",
    "randread-4k-qd32",
    "randread-4k-qd32-2jobs",
    "randwrite-4k-qd32",
    "randwrite-512-qd32",
    "seqread-1m-qd8",
    "seqwrite-1m-qd8",
)
"""What `--quick` runs unless told otherwise."""
FILL_BLOCK = 1 << 20
FILL_SEED = 20260129
SMALL_BLOCK = 4096
READING = ("read", "randread")
UNITS = {"k": 1 << 10, "m": 1 << 20, "g": 1 << 30, "t": 1 << 40}


@dataclass(frozen=True)
class Job:
    """One file of jobs/."""

    name: str
    path: Path
    block_size: int
    queue_depth: int
    """Of each of its processes."""
    writes: bool

    def is_small(self) -> bool:
        """Whether it is judged by requests rather than by bytes."""
        return self.block_size <= SMALL_BLOCK

    def speed_unit(self) -> str:
        return "kIOPS" if self.is_small() else "MB/s"


@dataclass(frozen=True)
class Settings:
    """What is the same for all runs."""

    engine: str
    size: int
    seconds: float
    warmup_seconds: float


@dataclass(frozen=True)
class Sample:
    """What fio measured."""

    iops: float
    bytes_per_second: float
    bytes: int
    p50_us: float
    p99_us: float


def parse_size(text: str) -> int:
    """Bytes, from a number with one of the suffixes k, m, g and t."""
    number, unit = (text[:-1], UNITS[text[-1].lower()]) if text[-1:].lower() in UNITS else (text, 1)
    return int(number) * unit


def load_jobs() -> dict[str, Job]:
    return {path.stem: load_job(path) for path in sorted(JOBS_FOLDER.glob("*.fio"))}


def load_job(path: Path) -> Job:
    parser = configparser.ConfigParser(allow_no_value=True, delimiters=("=",), interpolation=None)
    parser.read(path)
    options = parser[path.stem]
    return Job(path.stem, path, parse_size(options["bs"]), int(options.get("iodepth", "1")), options["rw"] not in READING)


def pick_engine(scratch: Path) -> str:
    """io_uring; libaio where fio or the kernel has none."""
    job = load_job(JOBS_FOLDER / "randread-4k-qd1.fio")
    scratch.write_bytes(bytes(1 << 20))
    try:
        run_once(job, scratch, direct=False, settings=Settings("io_uring", 1 << 20, 0.1, 0), seconds=0.1)
        return "io_uring"
    except RuntimeError:
        return "libaio"
    finally:
        scratch.unlink()


def run(job: Job, target: Path, *, direct: bool, settings: Settings) -> Sample:
    return run_once(job, target, direct=direct, settings=settings, seconds=settings.seconds)


def warm_up(job: Job, target: Path, *, direct: bool, settings: Settings) -> None:
    """A run of its own rather than fio's ramp_time: what daemons spend is measured around the whole of a run."""
    if settings.warmup_seconds > 0:
        run_once(job, target, direct=direct, settings=settings, seconds=settings.warmup_seconds)


def run_once(job: Job, target: Path, *, direct: bool, settings: Settings, seconds: float) -> Sample:
    environment = {
        "TARGET": str(target).replace(":", "\\:"),
        "DIRECT": str(int(direct)),
        "ENGINE": settings.engine,
        "SIZE": str(settings.size),
        "RUNTIME": f"{round(seconds * 1000)}ms",
    }
    done = subprocess.run(
        ["fio", "--output-format=json", str(job.path)],
        env=os.environ | environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
    )
    if done.returncode != 0:
        raise RuntimeError(f"fio {job.name} on {target} failed: {done.stderr.strip() or done.stdout.strip()[-500:]}")
    return parse_output(done.stdout)


def parse_output(output: str) -> Sample:
    # fio puts its warnings before the JSON.
    job = json.loads(output[output.index("{") :])["jobs"][0]
    if job["error"] != 0:
        raise RuntimeError(f"fio {job['jobname']}: {os.strerror(job['error'])}")
    sides = [job["read"], job["write"]]
    latency = max(sides, key=lambda side: side["total_ios"])["lat_ns"]["percentile"]
    return Sample(
        iops=sum(side["iops"] for side in sides),
        bytes_per_second=float(sum(side["bw_bytes"] for side in sides)),
        bytes=sum(side["io_bytes"] for side in sides),
        p50_us=latency["50.000000"] / 1000,
        p99_us=latency["99.000000"] / 1000,
    )


def fill(target: Path, size: int) -> None:
    """The same random bytes for every system: no holes, which would be cheap to read, and nothing to compress."""
    with target.open("r+b", buffering=0) as file:
        for block in random_blocks(size):
            file.write(block)
        os.fsync(file.fileno())


def verify(target: Path, size: int) -> None:
    """A system that does not give back what it was given is not worth measuring."""
    with target.open("rb", buffering=0) as file:
        for number, block in enumerate(random_blocks(size)):
            if file.read(len(block)) != block:
                raise RuntimeError(f"{target} does not hold what was written, at byte {number * FILL_BLOCK} or after")


def sync(target: Path) -> None:
    with target.open("r+b", buffering=0) as file:
        os.fsync(file.fileno())


def random_blocks(size: int) -> Iterator[bytes]:
    generator = random.Random(FILL_SEED)
    for start in range(0, size, FILL_BLOCK):
        yield generator.randbytes(min(FILL_BLOCK, size - start))
