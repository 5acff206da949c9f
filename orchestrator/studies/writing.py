"""A report as text, or as a file with its pictures."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final

from orchestrator.curves import draw_curves
from orchestrator.errors import ExperimentError
from orchestrator.past import request_of
from orchestrator.studies.measured import Measured, curves
from orchestrator.studies.page import page
from orchestrator.studies.published import Study, studies
from results.queries import BASELINE
from results.store import Store

_UNSAFE: Final = re.compile(r"[^A-Za-z0-9._-]+")


def text(store: Store, run_id: str) -> str:
    """The report without pictures; raises UnknownRun."""
    measured, study = _load(store, run_id)
    return page(measured, study, {})


def write(store: Store, run_id: str, out: Path) -> list[Path]:
    """Write the report and, where matplotlib is installed, its learning curves beside it.

    Returns the files; raises UnknownRun, OSError.
    """
    measured, study = _load(store, run_id)
    pictures: dict[str, str] = {}
    for model, points in curves(measured.lines).items():
        name = f"{out.stem}-{_UNSAFE.sub('-', model)}.svg"
        try:
            draw_curves(out.with_name(name), points, model)
        except ImportError:
            break
        pictures[model] = name
    out.write_text(page(measured, study, pictures), encoding="utf-8")
    return [out, *(out.with_name(name) for name in pictures.values())]


def _load(store: Store, run_id: str) -> tuple[Measured, Study | None]:
    try:
        baseline = request_of(store, run_id)[1].baseline
    except ExperimentError:
        baseline = BASELINE
    measured = Measured(store, run_id, baseline)
    return measured, _study(measured.run.experiment)


def _study(name: str) -> Study | None:
    """The study that an experiment repeats."""
    return studies().get(name)
