"""Building an experiment's artifacts, showing them, and scoring them on the whole set here."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from importlib import metadata
from typing import get_args

from rich.console import Console
from rich.text import Text

from agent import wire
from models import data, evaluate
from models.data import DetectionSet
from models.spec import ModelSpec
from models.steps.isa import host_isa
from models.store import ArtifactStore
from orchestrator import dryrun, tables
from orchestrator.assign import Built, BuiltVariant, build_all
from orchestrator.builders.choice import builder, find
from orchestrator.clock import SystemClock
from orchestrator.errors import RunIncomplete, unknown_name
from orchestrator.inventory import Isa
from orchestrator.invocation import Asked, opened_if_there
from orchestrator.prepare import Prepared, resolve
from orchestrator.record import EVALUATOR, artifact_record, set_name
from orchestrator.runner import run_record
from orchestrator.score import class_map, detections_by_image
from orchestrator.tables import NONE, Column
from results.records import EndOfRun, EvaluationRecord
from results.store import Store

_BYTES_PER_MB = 1e6


def build(asked: Asked, isas: Sequence[str], *, score: bool) -> None:
    """Build, print a line an artifact, and score if asked.

    Raises the error of the variants that could not be built, when all others are done.
    """
    screen = tables.console(sys.stderr)

    def say(line: str) -> None:
        screen.print(Text(line), soft_wrap=True)

    elsewhere = asked.request.build_on is not None
    prepared = resolve(asked.experiment, asked.workspace, say, elsewhere=elsewhere)
    targets = _targets(asked, isas)
    where = builder(find(asked.request.build_on, asked.inventory), asked.inventory)
    built = build_all(prepared, targets, ArtifactStore(asked.workspace.models), say, where)
    scores = _score(asked, prepared, built, say) if score else {}
    _show(tables.console(), built, scores)
    errors = [variant for variant in built.values() if isinstance(variant, wire.BenchError)]
    if errors:
        words = "\n".join(str(error) for error in errors)
        kinds = {type(error) for error in errors}
        raise (kinds.pop() if len(kinds) == 1 else RunIncomplete)(words)


def _targets(asked: Asked, isas: Sequence[str]) -> list[str]:
    known = get_args(Isa)
    for isa in isas:
        if isa not in known:
            raise unknown_name("instruction set", isa, known)
    with opened_if_there(asked.location) as store:
        past = dryrun.recall(store, asked.entries, [])
    targets = [*isas, *(memory.facts.isa for memory in past.values())]
    return sorted(set(targets)) or [host_isa()]


Key = tuple[str, str, str]


def _score(
    asked: Asked, prepared: Prepared, built: Built, say: Callable[[str], None]
) -> dict[Key, evaluate.Scores]:
    """Accuracy of every artifact on the whole set, stored as a run without boards."""
    if prepared.scored is None:
        say("score: the experiment names no data set with labels")
        return {}
    whole = data.load(prepared.scored.spec, asked.workspace.data)
    clock, found = SystemClock(), {}
    state: EndOfRun = "failed"
    with Store.open(asked.location, create=True) as store:
        store.record_run(run_record(asked.request, asked.experiment, clock.utc()))
        try:
            for key, variant in built.items():
                if isinstance(variant, wire.BenchError) or not _scorable(variant.model):
                    continue
                say(f"score: {'/'.join(key)} on {len(whole.images)} images")
                scores = _score_one(variant, whole)
                store.record_artifact(artifact_record(key, variant))
                store.record_evaluation(
                    asked.request.run_id,
                    variant.artifact.sha256,
                    _evaluation(whole, prepared.scored.spec.split, scores),
                )
                found[key] = scores
            state = "finished"
        finally:
            store.finish_run(asked.request.run_id, state, clock.utc())
    return found


def _scorable(model: ModelSpec) -> bool:
    """Random weights have no accuracy, nor has what nobody can decode."""
    return model.trained and model.head is not None


def _score_one(variant: BuiltVariant, whole: DetectionSet) -> evaluate.Scores:
    model = variant.model
    classes = class_map(model.class_names, whole.class_names)
    if model.prep is None or model.head is None:
        raise wire.BenchError(f"{model.name}: no letterbox or decoder is known")
    detected = evaluate.detect_on_host(
        variant.artifact.path, whole.images, model.prep, model.head, os.cpu_count() or 1
    )
    reported = [
        wire.ImageDetections(image_id=image_id, detections=tuple(found))
        for image_id, found in detected.items()
    ]
    return evaluate.score(whole, detections_by_image(reported, classes))


def _evaluation(whole: DetectionSet, split: str, scores: evaluate.Scores) -> EvaluationRecord:
    return EvaluationRecord(
        set_name=set_name(whole.name, split),
        split=split,
        images=scores.images,
        subset_seed=None,
        map50=scores.map50,
        map50_95=scores.map50_95,
        where="host",
        evaluator=EVALUATOR,
        evaluator_version=metadata.version(EVALUATOR),
        per_class=scores.per_class,
    )


def _show(out: Console, built: Built, scores: dict[Key, evaluate.Scores]) -> None:
    columns = [
        Column("variant"),
        Column("for"),
        Column("MB", figures=True),
        Column("parameters", figures=True),
        Column("fused INT8", figures=True),
        Column("mAP50", figures=True),
        Column("mAP50-95", figures=True),
        Column("images", figures=True),
        Column("artifact"),
    ]
    rows = [_cells(key, variant, scores.get(key)) for key, variant in built.items()]
    kept = [i for i in range(len(columns)) if scores or columns[i].header not in _SCORE_COLUMNS]
    tables.show(out, [columns[i] for i in kept], [[row[i] for i in kept] for row in rows])


_SCORE_COLUMNS = ("mAP50", "mAP50-95", "images")


def _cells(
    key: Key, variant: BuiltVariant | wire.BenchError, scores: evaluate.Scores | None
) -> list[str]:
    model, recipe, isa = key
    if isinstance(variant, wire.BenchError):
        return [f"{model}/{recipe}", isa, *[NONE] * 6, "FAILED"]
    artifact, manifest = variant.artifact, variant.artifact.manifest
    kernels = manifest.fused_kernels
    return [
        f"{model}/{recipe}",
        isa,
        f"{artifact.size_bytes / _BYTES_PER_MB:.2f}",
        NONE if manifest.parameters is None else f"{manifest.parameters:,}",
        NONE if kernels is None else str(sum(kernels.values())),
        NONE if scores is None else _figure(scores.map50),
        NONE if scores is None else _figure(scores.map50_95),
        NONE if scores is None else str(scores.images),
        artifact.sha256[:12],
    ]


def _figure(value: float | None) -> str:
    return NONE if value is None else f"{value:.3f}"
