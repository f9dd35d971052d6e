"""Results as pictures (SVG): bars against the peers, curves over the queue depth, CPU time a gigabyte.

Ours are blue, what does not encrypt is grey, encrypted peers have a colour each, the same in every picture.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("svg")
import matplotlib.pyplot as pyplot
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

from fio import Job
from results import Results, Spread
from systems import SYSTEMS

OURS_COLOURS = ("#1f5fbf", "#7aa7e6", "#12346b", "#a9c4ee")
PLAIN_COLOURS = ("#4d4d4d", "#7f7f7f", "#a6a6a6", "#c9c9c9")
PEER_COLOURS = ("#c44e1b", "#d99a1c", "#3f8f5a", "#8a4ea3", "#b5485d", "#5b7d87")
COLUMNS = 3
STYLE = {
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#e6e6e6",
    "svg.hashsalt": "vmcryptfs",
    "svg.fonttype": "none",
}


def draw(results: Results, jobs: Sequence[Job], systems: Sequence[str], folder: Path) -> list[Path]:
    """Writes the pictures for which there are results; returns their paths."""
    daemons = [system for system in systems if system in results.peak_memory]
    pictures: dict[str, Callable[[], Any]] = {
        "throughput": lambda: bars(jobs, systems, results.speed, Job.speed_unit),
        "cpu": lambda: bars(
            jobs, daemons, lambda system, job: results.cpu_seconds_per_gb(system, job.name), lambda _: "daemon CPU, s/GB"
        ),
        "queue-depth": lambda: curves(results, jobs, systems),
    }
    written = []
    with pyplot.rc_context(STYLE):
        for name, picture in pictures.items():
            figure = picture()
            if figure is None:
                continue
            written.append(folder / f"{name}.svg")
            save(figure, written[-1])
    return written


def bars(
    jobs: Sequence[Job],
    systems: Sequence[str],
    measure: Callable[[str, Job], Spread | None],
    unit: Callable[[Job], str],
) -> Any:
    """A panel a job, a bar a system: the median, and a line from the lowest to the highest round."""
    if not systems:
        return None
    height = 0.9 + 0.24 * len(systems)
    figure, panels = grid(len(jobs), height)
    for panel, job in zip(panels, jobs):
        for row, system in enumerate(systems):
            spread = measure(system, job)
            if spread is None:
                continue
            panel.barh(row, spread.median, color=colour(system), height=0.72)
            panel.plot([spread.low, spread.high], [row, row], color="black", linewidth=0.8)
            panel.annotate(
                readable(spread.median),
                (max(spread.high, spread.median), row),
                xytext=(3, 0),
                textcoords="offset points",
                va="center",
                fontsize=8,
            )
        panel.set_yticks(range(len(systems)), systems)
        panel.invert_yaxis()
        panel.grid(axis="y", visible=False)
        panel.margins(x=0.16)
        panel.set_xlim(left=0)
        panel.set_title(job.name, fontsize=9.5, loc="left")
        panel.set_xlabel(unit(job))
    return figure


def curves(results: Results, jobs: Sequence[Job], systems: Sequence[str]) -> Any:
    """Throughput and latency over the queue depth: a row a family of jobs that differ in their depth alone."""
    families: dict[str, list[Job]] = {}
    for job in jobs:
        families.setdefault(family(job), []).append(job)
    families = {name: sorted(of, key=lambda job: job.queue_depth) for name, of in families.items() if len(of) > 1}
    if not families:
        return None
    columns: list[tuple[str, Callable[[str, Job], Spread | None]]] = [
        ("kIOPS", results.speed),
        ("p50, µs", lambda system, job: latency(results, system, job, "p50_us")),
        ("p99, µs", lambda system, job: latency(results, system, job, "p99_us")),
    ]
    figure, rows = pyplot.subplots(
        len(families), len(columns), figsize=(11, 2.6 * len(families)), squeeze=False, layout="constrained"
    )
    for row, (name, of) in zip(rows, families.items()):
        for panel, (unit, measure) in zip(row, columns):
            for system in systems:
                points = [(job.queue_depth, spread) for job in of if (spread := measure(system, job)) is not None]
                depths = [depth for depth, _ in points]
                panel.plot(depths, [one.median for _, one in points], "o-", color=colour(system), label=system, ms=3.5)
            panel.set_xscale("log", base=2)
            panel.set_yscale("log")
            panel.set_xticks([job.queue_depth for job in of], [str(job.queue_depth) for job in of])
            panel.xaxis.set_minor_locator(NullLocator())
            panel.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
            panel.yaxis.set_minor_locator(NullLocator())
            panel.yaxis.set_major_formatter(FuncFormatter(lambda value, _: readable(value)))
            panel.set_title(f"{name}: {unit}", fontsize=9.5, loc="left")
            panel.set_xlabel("queue depth of each process")
    figure.legend(*rows[0][0].get_legend_handles_labels(), loc="upper left", bbox_to_anchor=(1, 0.98), frameon=False)
    return figure


def growth(rows: Sequence[Mapping[str, float]], x: str, figures: Sequence[str], path: Path) -> None:
    """A panel a figure, over what grows."""
    with pyplot.rc_context(STYLE):
        picture, panels = grid(len(figures), 2.4)
        for panel, name in zip(panels, figures):
            panel.plot([row[x] for row in rows], [row[name] for row in rows], "o-", color=OURS_COLOURS[0], ms=3.5)
            panel.set_xlim(left=0)
            panel.set_ylim(bottom=0)
            panel.set_title(name, fontsize=9.5, loc="left")
            panel.set_xlabel(x)
        save(picture, path)


def save(figure: Any, path: Path) -> None:
    # Without a date, so that the same results give the same file.
    figure.savefig(path, bbox_inches="tight", metadata={"Date": None})
    pyplot.close(figure)


def grid(count: int, height: float) -> tuple[Any, list[Axes]]:
    columns = min(COLUMNS, count)
    lines = math.ceil(count / columns)
    figure, panels = pyplot.subplots(
        lines, columns, figsize=(4.6 * columns, height * lines), squeeze=False, layout="constrained"
    )
    flat = list(panels.flat)
    for unused in flat[count:]:
        unused.set_visible(False)
    return figure, flat[:count]


def family(job: Job) -> str:
    """The job's name without its depth."""
    return job.name.replace(f"-qd{job.queue_depth}", "")


def latency(results: Results, system: str, job: Job, field: str) -> Spread | None:
    values = [getattr(run.sample, field) for run in results.of(system, job.name)]
    return Spread.of(values) if values else None


def readable(value: float) -> str:
    """Three digits, or all before the point."""
    if value >= 100:
        return f"{value:,.0f}"
    return f"{value:.3g}"


def colour(system: str) -> str:
    """By its place among its kind, so that it does not depend on which others are shown."""
    kind = SYSTEMS[system]
    if kind.is_ours:
        palette, same = OURS_COLOURS, [name for name, one in SYSTEMS.items() if one.is_ours]
    elif kind.encrypts:
        palette, same = PEER_COLOURS, [name for name, one in SYSTEMS.items() if one.encrypts and not one.is_ours]
    else:
        palette, same = PLAIN_COLOURS, [name for name, one in SYSTEMS.items() if not one.encrypts]
    return palette[same.index(system) % len(palette)]
