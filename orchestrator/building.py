"""Building an experiment's artifacts, showing them, and scoring them on the whole set here."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from typing import get_args

import click
from rich.console import Console
from rich.live import Live
from rich.text import Text

from agent import wire
from models import data, evaluate, overlap
from models.data import AnySet, DetectionSet
from models.spec import ModelSpec
from models.steps.isa import host_isa
from models.store import ArtifactStore
from orchestrator import accuracy, dryrun, explain, tables
from orchestrator.accuracy import Accuracy
from orchestrator.assign import Built, BuiltVariant, build_all
from orchestrator.builders.choice import builder, find
from orchestrator.buildprogress import Builds
from orchestrator.clock import SystemClock
from orchestrator.errors import RunIncomplete, unknown_name
from orchestrator.final import KEPT_SHARE
from orchestrator.invocation import Asked, opened_if_there
from orchestrator.isa import Isa
from orchestrator.prepare import Prepared, resolve
from orchestrator.record import artifact_record
from orchestrator.runner import run_record
from orchestrator.tables import NONE, Column
from results.records import EndOfRun
from results.store import Store

_BYTES_PER_MB = 1e6
_REFRESHES_PER_S = 2
_FORMATS_HERE = ("onnx", "ort")
"""What is scored on this machine, by ONNX Runtime."""


def build(
    asked: Asked,
    isas: Sequence[str],
    *,
    score: bool,
    explained: bool = False,
    as_json: bool = False,
) -> None:
    """Build, print a line an artifact, score and explain if asked.

    Raises the error of the variants that could not be built, when all others are done.
    """
    screen = tables.console(sys.stderr)
    live = screen.is_terminal and not as_json

    def say(line: str) -> None:
        screen.print(Text(line), soft_wrap=True)

    elsewhere = asked.request.build_on is not None
    prepared = resolve(asked.experiment, asked.workspace, say, elsewhere=elsewhere)
    targets = _targets(asked, isas)
    where = builder(find(asked.request.build_on, asked.inventory), asked.inventory)
    store, watch = ArtifactStore(asked.workspace.models), Builds()
    with _bars(screen, watch) if live else nullcontext():
        built = build_all(prepared, targets, store, _quiet if live else say, where, watch)
    scores = _score(asked, prepared, built, say) if score else {}
    lost = lost_accuracy(scores, asked.experiment.baseline)
    if as_json:
        click.echo(json.dumps({"variants": explain.as_json(built), "warnings": lost}, indent=2))
    else:
        _show(tables.console(), built, scores)
    if explained and not as_json:
        explain.show(tables.console(), built)
    labelled = prepared.scored is not None
    for line in lost if score else unchecked(built, asked.experiment.baseline, labelled=labelled):
        say(line)
    errors = [variant for variant in built.values() if isinstance(variant, wire.BenchError)]
    if errors:
        words = "\n".join(str(error) for error in errors)
        kinds = {type(error) for error in errors}
        raise (kinds.pop() if len(kinds) == 1 else RunIncomplete)(words)


def _quiet(_line: str) -> None:
    """The bars say it."""


@contextmanager
def _bars(screen: Console, watch: Builds) -> Iterator[None]:
    """A bar for each build while the block runs."""
    with Live(
        get_renderable=lambda: watch.table(screen.height - 1),
        console=screen,
        refresh_per_second=_REFRESHES_PER_S,
        transient=True,
    ):
        yield


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
) -> dict[Key, Accuracy]:
    """Accuracy of every artifact on the whole set, stored as a run without boards."""
    if prepared.scored is None:
        say("score: the experiment names no data set with labels; give one with --data")
        return {}
    spec, subset = prepared.scored.spec, prepared.scored.subset
    task: data.Task = "detect" if isinstance(subset, DetectionSet) else "segment"
    whole = data.load_for(task, spec, asked.workspace.data)
    clock, found = SystemClock(), {}
    state: EndOfRun = "failed"
    with Store.open(asked.location, create=True) as store:
        store.record_run(run_record(asked.request, asked.experiment, clock.utc()))
        try:
            for key, variant in built.items():
                if isinstance(variant, wire.BenchError) or not _scorable(variant.model):
                    continue
                if variant.format not in _FORMATS_HERE:
                    say(f"score: {'/'.join(key)}: a {variant.format} file is scored on boards only")
                    continue
                say(f"score: {'/'.join(key)} on {len(whole.images)} images")
                figures = _score_one(variant, whole)
                store.record_artifact(artifact_record(key, variant))
                store.record_evaluation(
                    asked.request.run_id,
                    variant.artifact.sha256,
                    figures.record(whole.name, spec.split, None, "host"),
                )
                found[key] = figures
            state = "finished"
        finally:
            store.finish_run(asked.request.run_id, state, clock.utc())
    return found


def _scorable(model: ModelSpec) -> bool:
    """Random weights have no accuracy, nor has what nobody can decode."""
    return model.trained and model.head is not None


def _score_one(variant: BuiltVariant, whole: AnySet) -> Accuracy:
    model = variant.model
    head, prep = model.head, model.prep
    if prep is None or head is None:
        raise wire.BenchError(f"{model.name}: no letterbox or decoder is known")
    path, threads = variant.artifact.path, os.cpu_count() or 1
    found: accuracy.Found
    if isinstance(head, wire.DetectHead) and isinstance(whole, DetectionSet):
        boxes = evaluate.detect_on_host(path, whole.images, prep, head, threads)
        found = [wire.ImageDetections(name, tuple(seen)) for name, seen in boxes.items()]
    elif isinstance(head, wire.SegmentHead) and not isinstance(whole, DetectionSet):
        found = list(overlap.segment_on_host(path, whole.images, prep, head, threads).values())
    else:
        raise wire.BenchError(f"{model.name} and {whole.name} are for different tasks")
    return accuracy.scored(whole, found, model.class_names, prep)


def lost_accuracy(scores: Mapping[Key, Accuracy], baseline: str) -> list[str]:
    """A line for each variant that keeps less than 95 % of its baseline's accuracy."""
    lines = []
    for (model, recipe, isa), figures in scores.items():
        before = scores.get((model, baseline, isa))
        name, value = figures.main
        whole = before.main[1] if before is not None else None
        if recipe != baseline and value is not None and whole and value < KEPT_SHARE * whole:
            lines.append(
                f"LOST ACCURACY: {model}/{recipe} ({isa}) keeps {value / whole:.1%} of "
                f"{baseline}'s {name} ({value:.3f} of {whole:.3f}), less than {KEPT_SHARE:.0%}"
            )
    return lines


_SAME_NUMBERS = frozenset(
    ("import", "export", "create", "take_ultralytics", "export_net", "ort_format")
)
"""Steps that change how a network is written, not what it computes."""


def unchecked(built: Built, baseline: str, *, labelled: bool) -> list[str]:
    """A line where variants that may have lost accuracy were built and `--score` was not asked for.

    Those that this machine cannot score, or that nobody can, are not counted. `labelled` says
    whether there is a data set to score on.
    """
    changed = [
        key
        for key, variant in built.items()
        if isinstance(variant, BuiltVariant)
        and key[1] != baseline
        and _scorable(variant.model)
        and variant.format in _FORMATS_HERE
        and {step.name for step in variant.artifact.manifest.steps}
        - {step.name for step in variant.model.steps}
        - _SAME_NUMBERS
    ]
    if not changed:
        return []
    what = "variants that were" if len(changed) > 1 else "variant that was"
    how = "add --score" if labelled else "give labelled images with --data and add --score"
    return [
        f"accuracy not checked of {len(changed)} {what} quantized or changed: {how} to have each "
        f"scored here, and named if it keeps less than {KEPT_SHARE:.0%} of {baseline}'s"
    ]


def _show(out: Console, built: Built, scores: Mapping[Key, Accuracy]) -> None:
    columns = [
        Column("variant"),
        Column("for"),
        Column("MB", figures=True),
        Column("parameters", figures=True, spare=1),
        Column("fused INT8", figures=True),
        *(Column(name, figures=True) for name in _FIGURES),
        Column("images", figures=True),
        Column("artifact", spare=2),
    ]
    there = {
        name for name, of in _FIGURES.items() if any(of(s) is not None for s in scores.values())
    }
    if scores:
        there |= {"images"} | (there or {"mAP50", "mAP50-95"})
    left_out = {*_FIGURES, "images"} - there
    rows = [_cells(key, variant, scores.get(key)) for key, variant in built.items()]
    kept = [i for i, column in enumerate(columns) if column.header not in left_out]
    tables.show(out, [columns[i] for i in kept], [[row[i] for i in kept] for row in rows])


_FIGURES: dict[str, Callable[[Accuracy], float | None]] = {
    "mAP50": lambda found: found.map50,
    "mAP50-95": lambda found: found.map50_95,
    "Dice": lambda found: found.dice,
    "IoU": lambda found: found.iou,
}


def _cells(key: Key, variant: BuiltVariant | wire.BenchError, scores: Accuracy | None) -> list[str]:
    model, recipe, isa = key
    if isinstance(variant, wire.BenchError):
        return [f"{model}/{recipe}", isa, *[NONE] * (4 + len(_FIGURES)), "FAILED"]
    artifact, manifest = variant.artifact, variant.artifact.manifest
    kernels = manifest.fused_kernels
    return [
        f"{model}/{recipe}",
        isa,
        f"{artifact.size_bytes / _BYTES_PER_MB:.2f}",
        NONE if manifest.parameters is None else f"{manifest.parameters:,}",
        NONE if kernels is None else str(sum(kernels.values())),
        *(NONE if scores is None else _figure(of(scores)) for of in _FIGURES.values()),
        NONE if scores is None else str(scores.images),
        artifact.sha256[:12],
    ]


def _figure(value: float | None) -> str:
    return NONE if value is None else f"{value:.3f}"
