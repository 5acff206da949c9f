"""A report as Markdown: pure functions from what was measured to lines of text."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

from orchestrator.studies.findings import Figure, judge
from orchestrator.studies.measured import Line, Measured, labelled
from orchestrator.studies.published import AccuracyName, Study
from orchestrator.text import printable

_ACCURACY: Final = {"map50": "mAP50", "map50_95": "mAP50-95", "dice": "Dice"}
_NONE: Final = "-"
_MARKUP: Final = {char: f"\\{char}" for char in "\\`*[]|"} | {"<": "&lt;", ">": "&gt;"}
_BIN_C: Final = 2
_SLOTS: Final = 5
"""Equal parts of a sustained trial, where only time tells them apart."""


def page(
    measured: Measured,
    study: Study | None,
    sustained: Measured | None,
    pictures: Mapping[str, str],
) -> str:
    """The whole report.

    `sustained` is the run that temperatures are taken from, `pictures` are files of learning
    curves by model.
    """
    lines = [*_head(measured, study)]
    if study is not None:
        lines += ["", "## Published", "", study.setup.strip(), "", *_published(study)]
    for board in measured.boards:
        lines += ["", f"## Measured on {_text(board)}", "", *_board(measured, study, board)]
    lines += _temperatures(measured, study, sustained)
    for model, file in pictures.items():
        lines += ["", f"## How {_text(model)} learned", "", f"![Learning curves]({file})"]
    return "\n".join(lines) + "\n"


def _head(measured: Measured, study: Study | None) -> Iterator[str]:
    run = measured.run
    yield f"# {study.title if study else run.experiment}"
    yield ""
    if study is not None:
        yield f"Repeats: {study.source}."
        yield ""
    scale = f" at scale `{run.scale}`" if run.scale else ""
    yield (
        f"Written by `orchestrator report` from run `{_text(run.run_id)}` of experiment "
        f"`{_text(run.experiment)}`{scale}: {run.blocks} blocks, {run.started_utc[:10]}, version "
        f"{_text(run.software_version)}."
    )
    if run.scale == "smoke":
        yield ""
        yield (
            "**Reduced size.** Networks of the same kind, but narrower, trained for minutes on the "
            "procedural sets: ratios and directions may be compared with the published ones, "
            "absolute figures may not. `--scale full` is the published set-up."
        )


def _published(study: Study) -> Iterator[str]:
    name = _ACCURACY[study.accuracy]
    yield from _table(
        ["row", "recipe", "parameters", "MB", name, "latency ms"],
        [
            [
                row.label,
                f"`{row.recipe}`",
                _number(row.parameters, ",d"),
                _number(row.size_mb, ".2f"),
                _number(row.accuracy, ".4f"),
                _number(row.latency_ms, ".1f"),
            ]
            for row in study.rows
        ],
    )


def _board(measured: Measured, study: Study | None, board: str) -> Iterator[str]:
    lines = [line for line in measured.lines if line.row.board == board]
    first = lines[0].row
    kind = _text(first.board_model or "a machine without a device tree")
    yield f"{kind}, {_text(first.isa)}, {first.threads} threads."
    if first.emulated:
        yield ""
        yield "**Emulated:** its times mean nothing and are left out."
    yield ""
    yield from _figures(lines)
    if study is not None:
        yield from ["", "### Against the published figures", ""]
        yield from _side_by_side(measured, study, board)
        yield from ["", "### Findings", ""]
        yield from _findings(measured, study, board)


def _figures(lines: Sequence[Line]) -> Iterator[str]:
    names = [name for name in _ACCURACY if any(getattr(one.row, name) is not None for one in lines)]
    several = len({one.row.model for one in lines}) > 1
    yield from _table(
        ["variant", "runtime", "parameters", "MB", "p50 ms", "p90 ms", "ratio (95 %)"]
        + [_ACCURACY[name] for name in names]
        + ["max °C", "n"],
        [
            [
                _text(one.label if several else one.row.variant),
                _text(one.row.runtime),
                _number(one.parameters, ",d"),
                f"{one.size_mb:.2f}",
                *_times(one),
                *(_number(getattr(one.row, name), ".4f") for name in names),
                _number(one.row.temp_max_c, ".1f"),
                str(one.row.n),
            ]
            for one in lines
        ],
    )


def _times(line: Line) -> list[str]:
    row = line.row
    if row.emulated:
        return [_NONE] * 3
    ratio = row.ratio
    text = _NONE
    if ratio is not None and ratio.low is not None and ratio.high is not None:
        text = f"{ratio.value:.3f} ({ratio.low:.3f} … {ratio.high:.3f})"
    return [_number(row.p50_ms, ".3f"), _number(row.p90_ms, ".3f"), text]


def _side_by_side(measured: Measured, study: Study, board: str) -> Iterator[str]:
    """Ratios to the baseline: published, and here with 95 % intervals."""
    base = measured.line(board, study.baseline)
    of = next(
        row
        for row in study.rows
        if (row.models, row.recipe) == (study.baseline.models, study.baseline.recipe)
    )
    name = _ACCURACY[study.accuracy]
    rows = []
    for row in study.rows:
        line = measured.line(board, row)
        rows.append(
            [
                row.label,
                _over(row.size_mb, of.size_mb),
                _here(measured, study.accuracy, "size", line, base),
                _over(row.latency_ms, of.latency_ms),
                _here(measured, study.accuracy, "latency", line, base),
                _less(row.accuracy, of.accuracy),
                _here(measured, study.accuracy, "accuracy", line, base),
            ]
        )
    yield f"Against `{study.baseline.recipe}` ({of.label}); intervals: blocks for latency, images,"
    yield f"paired, for {name}."
    yield ""
    yield from _table(
        ["row", "size", "size here", "latency", "latency here", f"Δ {name}", f"Δ {name} here"], rows
    )


def _here(
    measured: Measured, accuracy: AccuracyName, what: str, a: Line | None, b: Line | None
) -> str:
    if a is None or b is None:
        return "not measured"
    figure = measured.figure(what, accuracy, a, b)  # type: ignore[arg-type] # one of What
    return _NONE if figure is None else _shown(what, figure)


def _shown(what: str, figure: Figure) -> str:
    form = "+.4f" if what == "accuracy" else ".3f"
    if figure.low == figure.high:
        return f"{figure.value:{form}}"
    return f"{figure.value:{form}} ({figure.low:{form}} … {figure.high:{form}})"


def _findings(measured: Measured, study: Study, board: str) -> Iterator[str]:
    rows = []
    for finding in study.findings:
        a = measured.line(board, study.row(finding.a))
        b = measured.line(board, labelled(study, finding.b))
        figure = None
        if a is not None and b is not None:
            figure = measured.figure(finding.what, study.accuracy, a, b)
        shown = _NONE if figure is None else _shown(finding.what, figure)
        rows.append([finding.text, f"{finding.what} {shown}", f"**{judge(finding, figure)}**"])
    yield from _table(["published finding", "here", ""], rows)
    yield ""
    yield "A finding repeats where the whole interval lies on its side, and is undecided where the"
    yield "interval holds both."


def _temperatures(
    measured: Measured, study: Study | None, sustained: Measured | None
) -> Iterator[str]:
    """Latency against temperature, where there is a run without pauses."""
    if not measured.sustained and (study is None or study.sustained is None):
        return
    yield from ("", "## Latency against temperature", "")
    if sustained is None:
        yield (
            f"Not measured yet: `orchestrator run {study.sustained if study else ''}` does, and "
            "this page shows its latest run in the database."
        )
        return
    if sustained is not measured:
        yield f"From run `{_text(sustained.run.run_id)}` of `{_text(sustained.run.experiment)}`,"
        yield "in which inferences follow one another without a pause."
        yield ""
    rows = sustained.temperatures(_BIN_C)
    if rows:
        ends_c = [(row["slot"] * _BIN_C, (row["slot"] + 1) * _BIN_C) for row in rows]
        shown = [f"{low} … {high}" for low, high in ends_c]
        yield from _course("°C", list(zip(shown, rows, strict=True)))
        return
    yield "No board of that run has a temperature sensor. The course over time is:"
    yield ""
    slot_s = sustained.longest_s() * (1 + 1e-6) / _SLOTS or 1.0  # the last is in the last part
    yield from _course("part", [(str(row["slot"] + 1), row) for row in sustained.courses(slot_s)])


def _course(name: str, rows: Sequence[tuple[str, Mapping[str, Any]]]) -> Iterator[str]:
    """Latency by whatever `name` is, with the time it was seen in."""
    yield from _table(
        ["board", "variant", name, "inferences", "mean ms", "from s", "to s"],
        [
            [
                _text(str(row["board"])),
                _text(f"{row['model']}/{row['variant']}"),
                value,
                str(row["n"]),
                f"{row['mean_ms']:.3f}",
                f"{row['from_s']:.0f}",
                f"{row['to_s']:.0f}",
            ]
            for value, row in rows
        ],
    )


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> Iterator[str]:
    yield f"| {' | '.join(header)} |"
    yield f"|{'|'.join(['---'] + ['---:'] * (len(header) - 1))}|"
    for row in rows:
        yield f"| {' | '.join(row)} |"


def _over(value: float | None, of: float | None) -> str:
    return _NONE if value is None or of is None else f"{value / of:.3f}"


def _less(value: float | None, of: float | None) -> str:
    return _NONE if value is None or of is None else f"{value - of:+.4f}"


def _number(value: float | None, form: str) -> str:
    return _NONE if value is None else f"{value:{form}}"


def _text(text: str) -> str:
    """Text of a board or file that cannot break the table or become a link or a tag."""
    return "".join(_MARKUP.get(char, char) for char in printable(text))
