"""From events to the database: the only part of a run that writes to it."""

from __future__ import annotations

import time
from collections.abc import Mapping
from datetime import datetime

import msgspec

from agent import wire
from orchestrator import accuracy
from orchestrator.assign import Built, BuiltVariant
from orchestrator.events import BoardConnected, Event, TrialEnded
from orchestrator.plausible import require_asked_for
from orchestrator.prepare import Prepared
from orchestrator.progress import variant_of
from orchestrator.score import evaluated
from results.records import ArtifactRecord, BoardRecord, EvaluationRecord, TrialRecord
from results.store import Store

_NS_PER_S = 1_000_000_000


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
        """Why accuracy is missing although the board found something, by board and variant."""

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
        """What was found and cannot be scored is no reason to lose the times."""
        try:
            return self._evaluation(event)
        except wire.BenchError as exc:
            variant = variant_of(event)
            self.unscored[event.board, variant] = type(exc)(f"{event.board}: {variant}: {exc}")
            return None

    def _evaluation(self, event: TrialEnded) -> EvaluationRecord | None:
        """What the board found, scored; None where it reported nothing."""
        scored, asked = self._prepared.scored, event.spec.evaluation
        masked = asked is not None and isinstance(asked.head, wire.SegmentHead)
        found = event.masks if masked else event.detections
        if not found or scored is None:
            return None
        require_asked_for(event.spec, found)
        variant = self._built[event.trial.model, event.trial.recipe, self._isas[event.board]]
        if isinstance(variant, wire.BenchError):
            return None
        if asked is None:
            return None
        subset = evaluated(scored.subset, found)
        figures = accuracy.scored(subset, found, variant.model.class_names, asked.prep)
        seed = None if figures.images == scored.total_images else scored.seed
        return figures.record(scored.subset.name, scored.spec.split, seed, "board")


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
