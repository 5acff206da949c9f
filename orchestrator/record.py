"""From events to the database: the only part of a run that writes to it."""

from __future__ import annotations

import time
from collections.abc import Mapping
from datetime import datetime
from importlib import metadata

import msgspec

from agent import wire
from models import evaluate
from orchestrator.assign import Built, BuiltVariant
from orchestrator.events import BoardConnected, Event, TrialEnded
from orchestrator.plausible import require_asked_for
from orchestrator.prepare import Prepared
from orchestrator.progress import variant_of
from orchestrator.score import class_map, detections_by_image, evaluated
from results.records import ArtifactRecord, BoardRecord, EvaluationRecord, TrialRecord
from results.store import Store

_NS_PER_S = 1_000_000_000
EVALUATOR = "hotcoco"
"""The library behind models.evaluate; its version is stored with every figure."""


class Recorder:
    """Hears the events of one run and stores what they report, a transaction a trial."""

    def __init__(self, store: Store, run_id: str, prepared: Prepared) -> None:
        self._store = store
        self._run_id = run_id
        self._prepared = prepared
        self._isas: dict[str, str] = {}
        self._built: Built = {}
        self.finished = 0
        self.unscored: dict[tuple[str, str], wire.BenchError] = {}
        """Why accuracy is missing although detections came, by board and variant."""

    def built(self, built: Built) -> None:
        """Store the artifacts that trials will refer to."""
        self._built = built
        for key, variant in built.items():
            if isinstance(variant, wire.BenchError):
                continue
            self._store.record_artifact(artifact_record(key, variant))

    def hear(self, event: Event) -> None:
        """Store a board or a trial; other events are not kept."""
        if isinstance(event, BoardConnected):
            self._isas.setdefault(event.board, event.hello.fingerprint.isa)
            self._store.record_board(self._run_id, _board_record(event))
        elif isinstance(event, TrialEnded):
            self._store.record_trial(self._trial_record(event))
            self.finished += event.outcome.state == "finished"

    def _trial_record(self, event: TrialEnded) -> TrialRecord:
        trial = event.trial
        # On the board each attempt has a name of its own; in the store they share the plan's.
        named = {"trial_id": trial.trial_id}
        return TrialRecord(
            spec=msgspec.structs.replace(event.spec, **named),
            board=event.board,
            model=trial.model,
            variant=trial.recipe,
            recipe=trial.recipe,
            isa=self._isas[event.board],
            block=trial.block,
            plan_order=trial.order,
            scenario=trial.scenario.name,
            outcome=msgspec.structs.replace(event.outcome, **named),
            samples=event.samples,
            readings=event.readings,
            evaluation=self._evaluation_or_none(event),
            attempt=event.attempt,
            started_utc=event.started_utc,
            ended_utc=event.ended_utc,
        )

    def _evaluation_or_none(self, event: TrialEnded) -> EvaluationRecord | None:
        """Detections that cannot be scored are no reason to lose the times."""
        try:
            return self._evaluation(event)
        except wire.BenchError as exc:
            variant = variant_of(event)
            self.unscored[event.board, variant] = type(exc)(f"{event.board}: {variant}: {exc}")
            return None

    def _evaluation(self, event: TrialEnded) -> EvaluationRecord | None:
        """The board's detections, scored; None where it reported none."""
        scored = self._prepared.scored
        if not event.detections or scored is None:
            return None
        require_asked_for(event.spec, event.detections)
        variant = self._built[event.trial.model, event.trial.recipe, self._isas[event.board]]
        if isinstance(variant, wire.BenchError):
            return None
        classes = class_map(variant.model.class_names, scored.subset.class_names)
        subset = evaluated(scored.subset, event.detections)
        scores = evaluate.score(subset, detections_by_image(event.detections, classes))
        whole = scores.images == scored.total_images
        return EvaluationRecord(
            set_name=set_name(scored.subset.name, scored.spec.split),
            split=scored.spec.split,
            images=scores.images,
            subset_seed=None if whole else scored.seed,
            map50=scores.map50,
            map50_95=scores.map50_95,
            where="board",
            evaluator=EVALUATOR,
            evaluator_version=metadata.version(EVALUATOR),
            per_class=scores.per_class,
        )


def set_name(name: str, split: str) -> str:
    """The data set's name without the split, which is stored beside it."""
    return name.removesuffix(f"/{split}")


def artifact_record(key: tuple[str, str, str], variant: BuiltVariant) -> ArtifactRecord:
    """An artifact as it is stored; `key` is model, recipe and instruction set."""
    model, recipe, isa = key
    artifact = variant.artifact
    return ArtifactRecord(
        sha256=artifact.sha256,
        size_bytes=artifact.size_bytes,
        format=variant.format,
        model=model,
        variant=recipe,
        recipe=recipe,
        isa=isa,
        parent_sha256=artifact.manifest.parent_sha256,
        manifest_json=wire.encode(artifact.manifest),
    )


def _board_record(event: BoardConnected) -> BoardRecord:
    hello = event.hello
    return BoardRecord(
        name=event.board,
        fingerprint=hello.fingerprint,
        sources=hello.sources,
        clock_offset_ns=_utc_ns(event.host_utc) - hello.monotonic_ns,
        hello_monotonic_ns=hello.monotonic_ns,
        hello_utc=event.host_utc,
    )


def _utc_ns(moment: datetime) -> int:
    return round(moment.timestamp() * _NS_PER_S)


def new_run_id(moment: datetime, salt: int | None = None) -> str:
    """A run's id: its date and time, and a few digits so that two hosts never share one."""
    number = time.time_ns() if salt is None else salt
    return f"{moment:%Y%m%d-%H%M%S}-{number % 0xFFFFFF:06x}"


def host_facts(packages: Mapping[str, str]) -> dict[str, str | int | float | bool | None]:
    """What this host is, for the run's record."""
    import os  # noqa: PLC0415 - a few names, needed once
    import platform  # noqa: PLC0415 - as above

    return {
        "hostname": platform.node(),
        "system": platform.platform(),
        "python": platform.python_version(),
        "cpu_count": os.cpu_count(),
        **packages,
    }
