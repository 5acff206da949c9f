"""A sustained run in a report: latency against temperature, or over time without a sensor."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

from orchestrator.studies.markdown import table, text
from orchestrator.studies.measured import Measured
from orchestrator.studies.published import Study

_BIN_C: Final = 2
_SLOTS: Final = 5
"""Equal parts of a sustained trial, where only time tells them apart."""


def temperatures(
    measured: Measured, study: Study | None, sustained: Measured | None
) -> Iterator[str]:
    """Latency against temperature, where there is a run without pauses."""
    if not measured.sustained and (study is None or study.sustained is None):
        return
    yield from ("", "## Latency against temperature", "")
    if sustained is None:
        scale = f" --scale {measured.run.scale}" if measured.run.scale else ""
        yield (
            f"Not measured yet: `orchestrator run {study.sustained if study else ''}{scale}` does, "
            "and this page shows its latest run in the database."
        )
        return
    if sustained is not measured:
        yield f"From run `{text(sustained.run.run_id)}` of `{text(sustained.run.experiment)}`,"
        yield "in which inferences follow one another without a pause."
        yield ""
    rows = sustained.temperatures(_BIN_C)
    if rows:
        ends_c = [(row["slot"] * _BIN_C, (row["slot"] + 1) * _BIN_C) for row in rows]
        shown = [f"{low} … {high}" for low, high in ends_c]
        yield from _course("°C", list(zip(shown, rows, strict=True)))
        return
    slot_s = sustained.longest_s() * (1 + 1e-6) / _SLOTS or 1.0  # the last is in the last part
    rows = sustained.courses(slot_s)
    if not rows:
        yield "No real board was measured in that run."
        return
    yield "No board of that run has a temperature sensor. The course over time is:"
    yield ""
    yield from _course("part", [(str(row["slot"] + 1), row) for row in rows])


def _course(name: str, rows: Sequence[tuple[str, Mapping[str, Any]]]) -> Iterator[str]:
    """Latency by whatever `name` is, with the time it was seen in."""
    yield from table(
        ["board", "variant", name, "inferences", "mean ms", "from s", "to s"],
        [
            [
                text(str(row["board"])),
                text(f"{row['model']}/{row['variant']}"),
                value,
                str(row["n"]),
                f"{row['mean_ms']:.3f}",
                f"{row['from_s']:.0f}",
                f"{row['to_s']:.0f}",
            ]
            for value, row in rows
        ],
        texts=2,
    )
