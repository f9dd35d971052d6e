"""Results as Markdown for people and as JSON for programs."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from fio import Job
from results import Results, Spread
from targets import OURS, TARGETS, Target

NOTHING = "-"


def to_json(results: Results, context: dict[str, Any]) -> dict[str, Any]:
    """Every single run, so that other statistics can be had later."""
    runs = [asdict(run) | {"cpu_seconds_per_gb": run.cpu_seconds_per_gb} for run in results.runs]
    targets = [judge(target, results) for target in TARGETS]
    return context | {"peak_memory_bytes": results.peak_memory, "targets": targets, "runs": runs}


def to_markdown(results: Results, jobs: list[Job], systems: list[str], context: dict[str, Any]) -> str:
    others = [system for system in systems if system != OURS]
    daemons = [system for system in systems if system in results.peak_memory]
    parts = [
        "# vmcryptfs against its peers",
        describe_context(context),
        "Cells are medians over all rounds, with the lowest and the highest round in parentheses.",
        "## Throughput",
        table(
            ["job", "unit", *systems],
            [[job.name, job.speed_unit(), *(throughput(results, system, job) for system in systems)] for job in jobs],
        ),
    ]
    if OURS in systems and others:
        parts += [
            "## Ratios",
            "Of medians; in parentheses the lowest and highest ratio within one round.",
            table(
                ["job", *(f"{OURS} / {other}" for other in others)],
                [
                    [job.name, *(cell(results.ratio((OURS, job.name), (other, job.name)), 2) for other in others)]
                    for job in jobs
                ],
            ),
        ]
    parts += [
        "## Latency, p50 / p99 in µs",
        table(
            ["job", *systems],
            [[job.name, *(latency(results, system, job) for system in systems)] for job in jobs],
        ),
    ]
    if daemons:
        parts += [
            "## Daemon",
            table(
                ["", *daemons],
                [
                    *(
                        [f"CPU s/GB, {job.name}", *(cell(results.cpu_seconds_per_gb(d, job.name), 2) for d in daemons)]
                        for job in jobs
                    ),
                    ["peak memory, MiB", *(f"{results.peak_memory[d] / (1 << 20):.0f}" for d in daemons)],
                ],
            ),
        ]
    parts += [
        "## Targets",
        table(["target", "bound", "measured", ""], [target_row(target, results) for target in TARGETS]),
    ]
    return "\n\n".join(parts) + "\n"


def missed(results: Results) -> list[Target]:
    """Targets that were measured and not met."""
    return [target for target in TARGETS if judge(target, results)["met"] is False]


def judge(target: Target, results: Results) -> dict[str, Any]:
    measured = target.measure(results)
    return {
        "target": target.describe(),
        "bound": target.bound,
        "is_floor": target.is_floor,
        "measured": None if measured is None else asdict(measured),
        "met": None if measured is None else target.is_met(measured),
    }


def target_row(target: Target, results: Results) -> list[str]:
    measured = target.measure(results)
    verdict = "not measured" if measured is None else "met" if target.is_met(measured) else "**not met**"
    sign = ">=" if target.is_floor else "<="
    return [target.describe(), f"{sign} {target.bound:g}{target.unit}", cell(measured, 2), verdict]


def describe_context(context: dict[str, Any]) -> str:
    machine, settings = context["machine"], context["settings"]
    versions = ", ".join(f"{name} ({version})" for name, version in context["versions"].items())
    without = f" except on {', '.join(settings['buffered'])}" if settings["buffered"] else ""
    return "\n".join(
        [
            f"- Machine: {machine['cpu']}, {machine['cpus']} CPUs, {machine['memory_bytes'] / (1 << 30):.0f} GiB, "
            f"Linux {machine['kernel']}; load at the start {machine['load_average']:.2f}.",
            f"- Run: {context['started']}, commit {context['commit']}, {settings['rounds']} rounds of "
            f"{settings['seconds']:g} s, files of {settings['size'] >> 20} MiB on {settings['file_system']}, "
            f"{settings['engine']}, O_DIRECT{without}.",
            f"- Versions: {versions}.",
        ]
    )


def throughput(results: Results, system: str, job: Job) -> str:
    return cell(results.speed(system, job), 1 if job.is_small() else 0)


def latency(results: Results, system: str, job: Job) -> str:
    runs = results.of(system, job.name)
    if not runs:
        return NOTHING
    p50 = Spread.of([run.sample.p50_us for run in runs]).median
    p99 = Spread.of([run.sample.p99_us for run in runs]).median
    return f"{p50:.0f} / {p99:.0f}"


def cell(spread: Spread | None, decimals: int) -> str:
    if spread is None:
        return NOTHING
    if spread.low == spread.high:
        return f"{spread.median:.{decimals}f}"
    return f"{spread.median:.{decimals}f} ({spread.low:.{decimals}f}..{spread.high:.{decimals}f})"


def table(head: list[str], rows: list[list[str]]) -> str:
    """Padded, so that it can be read as it is."""
    widths = [max(len(row[column]) for row in [head, *rows]) for column in range(len(head))]
    lines = [head, ["-" * width for width in widths], *rows]
    return "\n".join(
        "| " + " | ".join(text.ljust(width) for text, width in zip(line, widths)) + " |" for line in lines
    )
