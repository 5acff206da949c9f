"""A report as Markdown: pure functions from what was measured to lines of text."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Final
from urllib.parse import quote

from orchestrator.final import notes
from orchestrator.studies.course import temperatures
from orchestrator.studies.findings import Figure, judge
from orchestrator.studies.gallery import LEAST_SCORE, Gallery
from orchestrator.studies.markdown import NONE, counted, less, number, over, shown, table, text
from orchestrator.studies.measured import Line, Material, Measured, labelled
from orchestrator.studies.published import AccuracyName, Finding, Study
from orchestrator.studies.whole import places, whole_network

_WORDS: Final = {
    "size": "size",
    "latency": "latency",
    "accuracy": "accuracy",
    "price": "difference of accuracy lost for each MB saved",
}
_ACCURACY: Final = {"map50": "mAP50", "map50_95": "mAP50-95", "dice": "Dice"}


def page(
    material: Material, pictures: Mapping[str, str], seen: tuple[str, Gallery] | None = None
) -> str:
    """The whole report.

    `pictures` are files of learning curves by model, `seen` a file with what variants found.
    """
    measured, study = material.run, material.study
    lines = [*_head(measured, study)]
    if study is not None:
        lines += ["", "## Published", "", study.setup.strip(), "", *_published(study)]
    for board in measured.boards:
        lines += ["", f"## Measured on {text(board)}", "", *_board(material, board)]
    if study is not None and material.whole is not None:
        lines += ["", "## The whole network, untrained", "", *whole_network(material.whole, study)]
    lines += temperatures(measured, study, material.sustained)
    if seen is not None:
        lines += ["", "## What they found", "", *_found(*seen)]
    for model, file in pictures.items():
        lines += ["", f"## How {text(model)} learned", "", f"![Learning curves]({quote(file)})"]
    return "\n".join(lines) + "\n"


def _head(measured: Measured, study: Study | None) -> Iterator[str]:
    run = measured.run
    yield f"# {study.title if study else text(run.experiment)}"
    yield ""
    if study is not None:
        yield f"Repeats: {study.source}."
        yield ""
    scale = f" at scale `{run.scale}`" if run.scale else ""
    blocks = counted(run.blocks, "block")
    yield (
        f"Written by `orchestrator report` from run `{text(run.run_id)}` of experiment "
        f"`{text(run.experiment)}`{scale}: {blocks}, {run.started_utc[:10]}, version "
        f"{text(run.software_version)}."
    )
    if run.state != "finished":
        yield ""
        yield (
            f"**Incomplete:** the run is {text(run.state)}; `orchestrator resume {run.run_id}` "
            "measures what is missing."
        )
    if study is not None and study.whole is not None and run.scale == study.whole:
        yield ""
        yield (
            "**Untrained.** Sizes and times alone mean something here; the page of a trained run, "
            "`orchestrator report RUN`, takes this one in."
        )
    if run.scale == "smoke":
        yield ""
        yield (
            "**Reduced size.** Networks of the same kind, but narrower, trained for minutes on the "
            "procedural sets: directions may be compared with the published ones, absolute figures "
            "may not, and ratios with care: of files this small a good part is the graph, of "
            "inferences this short the calls. `--scale full` is the published set-up."
        )


def _found(file: str, shown: Gallery) -> Iterator[str]:
    """A picture, and words for it: who cannot see it learns what it shows."""
    variants = ", ".join(text(name) for name in shown.variants)
    boxes = f" (boxes with a score of at least {LEAST_SCORE:g})" if shown.boxes else ""
    yield f"{shown.images} of the scored images of {text(shown.set_name)}. From top to bottom: the"
    yield f"image, the truth, and what was found{boxes} by {variants}."
    yield "A class has one colour. Computed where this page was written, from the measured files."
    if shown.left_out:
        yield f"Left out, for their formats: {', '.join(text(name) for name in shown.left_out)}."
    yield ""
    yield f"![Images, truth and what was found]({quote(file)})"


def _published(study: Study) -> Iterator[str]:
    name = _ACCURACY[study.accuracy]
    yield from table(
        ["row", "recipe", "parameters", "MB", name, "latency ms"],
        [
            [
                row.label,
                f"`{row.recipe}`",
                number(row.parameters, ",d"),
                number(row.size_mb, ".2f"),
                number(row.accuracy, ".4f"),
                number(row.latency_ms, ".1f"),
            ]
            for row in study.rows
        ],
        texts=2,
    )


def _board(material: Material, board: str) -> Iterator[str]:
    measured, study = material.run, material.study
    lines = [line for line in measured.lines if line.row.board == board]
    first = lines[0].row
    kind = first.board_model or measured.cpu_model(board) or "a machine without a device tree"
    yield f"{text(kind)}, {text(first.isa)}, {first.threads} threads."
    if first.emulated:
        yield ""
        yield "**Emulated:** its times mean nothing and are left out."
    yield ""
    yield from _figures(lines)
    yield ""
    for note in notes([line.row for line in lines], measured.baseline):
        yield f"- {text(note)}"
    if study is not None:
        yield from ["", "### Against the published figures", ""]
        yield from _side_by_side(measured, study, board)
        yield from ["", "### Findings", ""]
        yield from _findings(material, study, board)


def _figures(lines: Sequence[Line]) -> Iterator[str]:
    names = [name for name in _ACCURACY if any(getattr(one.row, name) is not None for one in lines)]
    several = len({one.row.model for one in lines}) > 1
    yield from table(
        ["variant", "runtime", "parameters", "MB", "p50 ms", "p90 ms", "ratio (95 %)"]
        + [_ACCURACY[name] for name in names]
        + ["max °C", "n"],
        [
            [
                text(one.label if several else one.row.variant),
                text(one.row.runtime),
                number(one.parameters, ",d"),
                f"{one.size_mb:.2f}",
                *_times(one),
                *(number(getattr(one.row, name), ".4f") for name in names),
                number(one.row.temp_max_c, ".1f"),
                str(one.row.n),
            ]
            for one in lines
        ],
        texts=2,
    )


def _times(line: Line) -> list[str]:
    row = line.row
    if row.emulated:
        return [NONE] * 3
    ratio = row.ratio
    text = NONE
    if ratio is not None and ratio.low is not None and ratio.high is not None:
        text = f"{ratio.value:.3f} ({ratio.low:.3f} … {ratio.high:.3f})"
    return [number(row.p50_ms, ".3f"), number(row.p90_ms, ".3f"), text]


def _side_by_side(measured: Measured, study: Study, board: str) -> Iterator[str]:
    """Ratios to the baseline: published, and here with 95 % intervals."""
    base = measured.line(board, study.baseline)
    of = study.baseline_row
    name = _ACCURACY[study.accuracy]
    rows = []
    for row in study.rows:
        line = measured.line(board, row)
        rows.append(
            [
                row.label,
                over(row.size_mb, of.size_mb),
                _here(measured, study.accuracy, "size", line, base),
                over(row.latency_ms, of.latency_ms),
                _here(measured, study.accuracy, "latency", line, base),
                less(row.accuracy, of.accuracy),
                _here(measured, study.accuracy, "accuracy", line, base),
            ]
        )
    yield f"Against `{study.baseline.recipe}` ({of.label}); intervals: blocks for latency, images,"
    yield f"paired, for {name}."
    yield ""
    yield from table(
        ["row", "size", "size here", "latency", "latency here", f"Δ {name}", f"Δ {name} here"], rows
    )


def _here(
    measured: Measured, accuracy: AccuracyName, what: str, a: Line | None, b: Line | None
) -> str:
    if a is None or b is None:
        return "not measured"
    figure = measured.figure(what, accuracy, a, b)  # type: ignore[arg-type] # one of What
    return shown(what, figure)


def _findings(material: Material, study: Study, board: str) -> Iterator[str]:
    rows = []
    for finding in study.findings:
        where = ""
        for of, on in places(material, board, finding):
            figure = _evidence(of, study, on, finding)
            if figure is not None:
                where = "" if of is material.run else " (whole network)"
                break
        if figure is None:
            told = f"{_WORDS[finding.what]}: {_missing(of, study, on, finding)}"
        else:
            told = f"{_WORDS[finding.what]} {shown(finding.what, figure)}{where}"
        rows.append([finding.text, told, f"**{judge(finding, figure)}**"])
    yield from table(["published finding", "here", ""], rows, texts=3)
    yield ""
    yield "A finding repeats where the whole interval lies on its side, and is undecided where the"
    yield "interval holds both."


def _evidence(measured: Measured, study: Study, board: str, finding: Finding) -> Figure | None:
    a = measured.line(board, study.row(finding.a))
    b = measured.line(board, labelled(study, finding.b))
    if a is None or b is None:
        return None
    if finding.what == "price":
        base = measured.line(board, study.baseline)
        return None if base is None else measured.price(study.accuracy, a, b, base)
    return measured.figure(finding.what, study.accuracy, a, b)


def _missing(measured: Measured, study: Study, board: str, finding: Finding) -> str:
    """Why there is no figure: a row that was not measured, or that cannot be compared."""
    a, b = study.row(finding.a), labelled(study, finding.b)
    base = study.baseline
    found = []
    for one, other in ((a, base), (b, base)) if finding.what == "price" else ((a, b),):
        line, against = measured.line(board, one), measured.line(board, other)
        if line is None or against is None:
            return "not measured"
        what = "accuracy" if finding.what == "price" else finding.what
        words = "; ".join(measured.why_not(what, line, against)) or "nothing was saved"
        found.append(f"A is {line.label}, B {against.label}: {words}")
    return text(f"not comparable ({'. '.join(found)})")
