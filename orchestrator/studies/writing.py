"""A report as text, or as a file with its pictures."""

from __future__ import annotations

import re
from collections.abc import Collection
from pathlib import Path
from typing import Final

from orchestrator.curves import draw_curves
from orchestrator.past import baseline_of
from orchestrator.studies.gallery import gallery
from orchestrator.studies.measured import Material, Measured, curves, latest_run
from orchestrator.studies.page import page
from orchestrator.studies.published import Study, studies
from orchestrator.workspace import Workspace
from results.store import Store

_JPEG_QUALITY: Final = 88
_UNSAFE: Final = re.compile(r"[^\w.-]+")


def text(store: Store, run_id: str) -> str:
    """The report without pictures; raises UnknownRun."""
    return page(_load(store, run_id), {})


def write(
    store: Store, run_id: str, out: Path, workspace: Workspace | None = None, images: int = 0
) -> list[Path]:
    """Write the report and, where matplotlib is installed, its learning curves beside it.

    With `workspace`, which has the artifacts, also a picture of what variants found in `images`
    images. Returns the files; raises UnknownRun, OSError, and what `gallery` raises.
    """
    material = _load(store, run_id)
    seen = None
    if workspace is not None and images:
        found = gallery(store, run_id, workspace, images)
        seen = (f"{out.stem}-found.jpg", found)
        found.picture.save(out.with_name(seen[0]), quality=_JPEG_QUALITY)
    pictures: dict[str, str] = {}
    for model, points in curves(material.run.lines).items():
        name = _file_name(f"{out.stem}-{_UNSAFE.sub('-', model)}", pictures.values())
        try:
            draw_curves(out.with_name(name), points, model)
        except ImportError:
            break
        pictures[model] = name
    out.write_text(page(material, pictures, seen), encoding="utf-8")
    names = [*pictures.values(), *([] if seen is None else [seen[0]])]
    return [out, *(out.with_name(name) for name in names)]


def _file_name(stem: str, taken: Collection[str]) -> str:
    """A picture's name that no other has: two models may differ in what a file name has not."""
    names = (f"{stem}{number}.svg" for number in ("", *(f"-{n}" for n in range(2, len(taken) + 2))))
    return next(name for name in names if name not in taken)


def _load(store: Store, run_id: str) -> Material:
    """A run, the study that it repeats, and the newest runs that belong on the same page."""
    measured = _measured(store, run_id)
    experiment, study = measured.run.experiment, _study(measured.run.experiment)
    sustained = measured if measured.sustained else None
    whole = None
    if study is not None and study.sustained is not None and sustained is None:
        sustained = _newest(store, study.sustained, measured.run.scale)
    if study is not None and study.whole not in (None, measured.run.scale):
        whole = _newest(store, experiment, study.whole)
    return Material(measured, study, sustained, whole)


def _newest(store: Store, experiment: str, scale: str | None = None) -> Measured | None:
    run_id = latest_run(store, experiment, scale)
    return None if run_id is None else _measured(store, run_id)


def _measured(store: Store, run_id: str) -> Measured:
    return Measured(store, run_id, baseline_of(store, run_id))


def _study(name: str) -> Study | None:
    """The study that an experiment repeats."""
    return studies().get(name)
