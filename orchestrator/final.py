"""The final table of a run, from committed rows only, and the same as JSON."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

from rich.console import Console
from rich.text import Text

from orchestrator import tables
from orchestrator.tables import NONE, Column
from orchestrator.text import printable
from results.intervals import Ratio
from results.queries import LeaderboardRow
from results.stats import min_samples

if TYPE_CHECKING:
    from orchestrator.runner import Report

BYTES_PER_MB = 1e6
EMULATED = "emulated"
KEPT_SHARE = 0.95
"""MLPerf Mobile's rule for detection: INT8 keeps this share of FP32's figure."""


def show(out: Console, rows: Sequence[LeaderboardRow], baseline: str) -> None:
    """Print the table and, under it, what its figures rest on.

    Intervals that have no room in it stand there too; runtimes and the figures that follow least
    from the others go next.
    """
    several = len({row.model for row in rows}) > 1
    figures = accuracy_columns(rows)
    columns = [
        Column("board"),
        Column("variant"),
        *([Column("runtime", spare=8)] if _several_runtimes(rows) else []),
        Column("MB", figures=True),
        Column("p50 ms", figures=True),
        Column("p90 ms", figures=True, spare=4),
        Column("p99 ms", figures=True, spare=6),
        Column("FPS", figures=True, spare=5),
        *(Column(name, figures=True, spare=_SPARE.get(name, 0)) for name in figures),
        Column("°C", figures=True, spare=1),
        Column("ratio", figures=True),
        Column("95 % interval", figures=True, spare=7),
    ]
    cells = [_cells(row, figures, several=several, baseline=baseline) for row in rows]
    if _several_runtimes(rows):
        cells = [[*line[:2], row.runtime, *line[2:]] for row, line in zip(rows, cells, strict=True)]
    shown = tables.show(out, columns, cells)
    if len(columns) - 1 not in shown:
        known = [f"{row[0]} {row[1]} {row[-1]}" for row in cells if row[-1] != NONE]
        if known:
            out.print(Text(f"95 % intervals of the ratio: {'; '.join(known)}"), soft_wrap=True)
    for note in (*notes(rows, baseline), *_percentile_notes(rows)):
        out.print(Text(note, style="dim"), soft_wrap=True)


_SPARE = {"mAP50-95": 3, "IoU": 2}
"""Which figures of accuracy a narrow table can do without."""


def _several_runtimes(rows: Sequence[LeaderboardRow]) -> bool:
    return len({row.runtime for row in rows}) > 1


def accuracy_columns(rows: Sequence[LeaderboardRow]) -> Mapping[str, str]:
    """Which figures of accuracy a table shows, by header: those of the tasks that are in it."""
    boxes = {"mAP50": "map50", "mAP50-95": "map50_95"}
    masks = {"Dice": "dice", "IoU": "iou"}
    segmented = any(row.dice is not None for row in rows)
    detected = any(row.map50 is not None for row in rows)
    return (boxes if detected or not segmented else {}) | (masks if segmented else {})


def _cells(
    row: LeaderboardRow, figures: Mapping[str, str], *, several: bool, baseline: str
) -> list[str]:
    variant = f"{row.model}/{row.variant}" if several else row.variant
    if row.emulated:
        speeds = [EMULATED, NONE, NONE, NONE]
    else:
        speeds = [_number(value) for value in (row.p50_ms, row.p90_ms, row.p99_ms, row.fps)]
    return [
        printable(row.board),
        printable(variant),
        f"{row.size_bytes / BYTES_PER_MB:.2f}",
        *speeds,
        *(_share(getattr(row, name)) for name in figures.values()),
        NONE if row.temp_max_c is None else f"{row.temp_max_c:.1f}",
        *_ratio(row, baseline),
    ]


def _share(value: float | None) -> str:
    return NONE if value is None else f"{value:.3f}"


def _ratio(row: LeaderboardRow, baseline: str) -> tuple[str, str]:
    if row.variant == baseline and not row.emulated:
        return "1", NONE
    ratio = row.ratio
    if ratio is None or row.emulated:
        return NONE, NONE
    return f"{ratio.value:.2f}", interval(ratio)


def interval(ratio: Ratio) -> str:
    """The interval's ends, with digits enough to tell them apart."""
    if ratio.low is None or ratio.high is None:
        return NONE
    digits = 3 if ratio.high - ratio.low < 0.02 else 2  # noqa: PLR2004 - two digits show no less
    return f"{ratio.low:.{digits}f} … {ratio.high:.{digits}f}"


def _number(value: float | None) -> str:
    """Three significant digits at least; no exponent."""
    return NONE if value is None else tables.figure(value, 3)


def notes(rows: Sequence[LeaderboardRow], baseline: str) -> list[str]:
    """What a reader has to know to defend the figures."""
    found = [*_accuracy_notes(rows), *_lost(rows, baseline), *_speed_notes(rows, baseline)]
    hot = [row for row in rows if row.throttled]
    if hot:
        names = ", ".join(sorted({f"{row.board}/{row.variant}" for row in hot}))
        found.append(f"THROTTLED or under-voltage while measuring: {names}")
    if any(row.temp_max_c is None for row in rows):
        names = ", ".join(sorted({row.board for row in rows if row.temp_max_c is None}))
        found.append(f"°C: highest while measuring; no temperature sensor on: {names}")
    unfinished = [row for row in rows if row.unfinished]
    if unfinished:
        names = ", ".join(f"{row.board}/{row.variant} ({row.unfinished})" for row in unfinished)
        found.append(f"trials that did not finish: {names}")
    return [printable(note) for note in found]


def _accuracy_notes(rows: Sequence[LeaderboardRow]) -> list[str]:
    sets = sorted(
        {
            (row.eval_images, f"{row.eval_set}/{row.eval_split}", row.eval_place, row.dice is None)
            for row in rows
            if row.eval_set is not None
        },
        key=str,
    )
    return [
        f"mAP: {images} images of {name}, detected on the {place}, scored here (COCO rules)"
        if boxes
        else f"Dice (mean over images) and IoU: {images} images of {name}, segmented on the "
        f"{place}, scored here at the model's own size, padding left out"
        for images, name, place, boxes in sets
    ]


def _lost(rows: Sequence[LeaderboardRow], baseline: str) -> list[str]:
    """A line for each variant that is too much less accurate than its baseline on the same images.

    Variants that share a set and a count of images are compared, on the same board.
    """

    def same(row: LeaderboardRow) -> tuple[object, ...]:
        return row.board, row.model, row.eval_set, row.eval_split, row.eval_images

    before = {same(row): row for row in rows if row.variant == baseline}
    found = []
    for row in rows:
        whole = before.get(same(row))
        if whole is None or row.variant == baseline:
            continue
        for name in ("map50", "dice"):
            value, full = getattr(row, name), getattr(whole, name)
            if value is not None and full and value < KEPT_SHARE * full:
                found.append(
                    f"LOST ACCURACY: {row.board}: {row.model}/{row.variant} keeps "
                    f"{value / full:.1%} of {baseline}'s {_ACCURACY[name]}, less than "
                    f"{KEPT_SHARE:.0%}"
                )
    return found


_ACCURACY = {"map50": "mAP50", "dice": "Dice"}


def _speed_notes(rows: Sequence[LeaderboardRow], baseline: str) -> list[str]:
    real = [row for row in rows if not row.emulated]
    found = []
    if any(row.ratio is not None for row in real):
        several = len({row.model for row in rows}) > 1
        found.append(
            f"ratio: p50 as a share of {baseline}'s {'of the same model ' if several else ''}"
            f"on the same board, over paired blocks; below 1 is faster"
        )
    if any(row.ratio is not None for row in real) and _several_runtimes(real):
        of_base = {row.runtime for row in real if row.variant == baseline}
        found.append(
            f"{baseline} was run by {', '.join(sorted(of_base))}: a ratio to it across runtimes "
            f"is that of the runtimes as well as of the files"
        )
    if len(real) < len(rows):
        found.append("emulated boards prove that a model runs, not how fast: no times are shown")
    if any(row.scenario == "sustained" for row in rows):
        found.append(
            "sustained: inferences without a pause for a fixed time, the board heating up; "
            "`v_latency_by_temp` has latency against temperature"
        )
    if any(row.short_trials for row in rows):
        found.append("short: some trials reached their time cap before their sample count")
    return found


def _percentile_notes(rows: Sequence[LeaderboardRow]) -> Iterator[str]:
    """Why a column of the table is empty."""
    if any(row.p50_ms is not None and row.p99_ms is None for row in rows if not row.emulated):
        yield f"p90 needs {min_samples(90)} samples and p99 {min_samples(99)}: '-' has fewer"


def as_json(rows: Sequence[LeaderboardRow], report: Report) -> str:
    """The table as one JSON object; absent figures are null."""
    body = {
        "run_id": report.run_id,
        "state": report.state,
        "errors": [str(error) for error in report.errors],
        "rows": [dataclasses.asdict(row) for row in rows],
    }
    return json.dumps(body, indent=2, ensure_ascii=True)
