"""The networks of a study at their published size, untrained: what needs no training is told there.

Neither the size of a file nor the time of an inference follows from the values of its weights.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from orchestrator.studies.markdown import NONE, counted, number, over, shown, table, text
from orchestrator.studies.measured import Material, Measured
from orchestrator.studies.published import Finding, PublishedRow, Study

_UNTRAINED: Final = ("size", "latency")
_COLUMNS: Final = (
    *("row", "parameters", "MB", "MB here", "size", "size here", "difference"),
    *("latency", "latency here", "p50 ms here"),
)


def places(material: Material, board: str, finding: Finding) -> Iterator[tuple[Measured, str]]:
    """The runs and boards that a finding may be judged by, the most telling first."""
    whole = material.whole
    if whole is not None and finding.what in _UNTRAINED:
        if board in whole.boards:
            yield whole, board
        elif finding.what == "size":  # which is that of the file, wherever it runs
            yield whole, whole.boards[0]
    yield material.run, board


def whole_network(whole: Measured, study: Study) -> Iterator[str]:
    """Sizes and times of the networks at their full size, beside the published ones."""
    run, blocks = whole.run, counted(whole.run.blocks, "block")
    yield f"From run `{text(run.run_id)}` at scale `{run.scale}`, {blocks}: the networks"
    yield "at their published size with random weights. The size of a file and the time of an"
    yield "inference do not follow from the values of weights; accuracy does, and is not shown."
    for board in whole.boards:
        if len(whole.boards) > 1:
            yield from ["", f"### On {text(board)}"]
        yield ""
        yield from table(
            _COLUMNS,
            [_cells(whole, study, row, board) for row in study.rows if whole.line(board, row)],
        )


def _cells(whole: Measured, study: Study, row: PublishedRow, board: str) -> list[str]:
    line, base = whole.line(board, row), whole.line(board, study.baseline)
    if line is None or base is None:
        return [row.label, *[NONE] * (len(_COLUMNS) - 1)]
    of = study.baseline_row
    size = line.row.size_bytes / base.row.size_bytes
    published = None if row.size_mb is None or of.size_mb is None else row.size_mb / of.size_mb
    return [
        row.label,
        number(line.parameters, ",d"),
        number(row.size_mb, ".2f"),
        f"{line.size_mb:.2f}",
        number(published, ".3f"),
        f"{size:.3f}",
        NONE if published is None else f"{size / published - 1:+.1%}",
        over(row.latency_ms, of.latency_ms),
        shown("latency", whole.figure("latency", study.accuracy, line, base)),
        NONE if line.row.emulated else number(line.row.p50_ms, ".1f"),
    ]
