"""The main job, end to end: resolve, connect, plan, build, measure, record.

Everything that differs between a person's terminal and a script is in the display; everything
that differs between boards is behind `Board`.
"""

from __future__ import annotations

import dataclasses
import getpass
import json
import socket
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from importlib import metadata
from pathlib import Path

import msgspec

from agent import wire
from models.build import build_many
from models.store import ArtifactStore
from orchestrator.assign import BuildMany, assign, build_all
from orchestrator.boards.base import Board
from orchestrator.clock import Clock
from orchestrator.conduct import Ending, conduct
from orchestrator.dashboard import Display
from orchestrator.errors import BoardFailure, Interrupted, RunIncomplete, from_failure
from orchestrator.events import BoardConnected, Event, TrialEnded, TrialSkipped
from orchestrator.execute import PATIENCE, Assignment, Patience
from orchestrator.experiment import Experiment
from orchestrator.inventory import BoardEntry
from orchestrator.past import Past, stored_attempts
from orchestrator.plan import RunRequest, facts_of, make_plan
from orchestrator.prepare import Prepared
from orchestrator.progress import variant_of
from orchestrator.record import Recorder, host_facts
from results.records import EndOfRun, RunRecord
from results.store import Store
from results.version import software_version


@dataclass(frozen=True)
class Job:
    """One run, resolved: what is measured, on which boards, and where artifacts lie."""

    request: RunRequest
    experiment: Experiment
    prepared: Prepared
    entries: Sequence[BoardEntry]
    boards: Sequence[Board]
    artifacts: Path
    past: Past | None = None
    """What is stored already, where a run is resumed."""
    patience: Patience = PATIENCE
    build_many: BuildMany = build_many


@dataclass(frozen=True)
class Report:
    """How a run ended: every error of a board or variant, none twice."""

    run_id: str
    state: EndOfRun
    finished_trials: int
    errors: tuple[wire.BenchError, ...]

    def raise_if_incomplete(self) -> None:
        """Raise the one error that stands for all: their class if they share one."""
        if self.state == "interrupted":
            raise Interrupted(
                f"interrupted: {self.finished_trials} finished trials are stored as run "
                f"{self.run_id}, and what the others had measured"
                + "".join(f"\n  {error}" for error in self.errors)
            )
        if not self.errors:
            return
        classes = {type(error) for error in self.errors}
        words = "\n".join(f"  {error}" for error in self.errors)
        summary = (
            f"run {self.run_id} is incomplete ({self.finished_trials} trials finished):\n{words}"
        )
        if len(classes) == 1:
            raise type(self.errors[0])(summary) from self.errors[0]
        raise RunIncomplete(summary)


class Run:
    """One invocation; `go` does it all."""

    def __init__(self, job: Job, store: Store, display: Display, clock: Clock) -> None:
        self._job = job
        self._store = store
        self._display = display
        self._clock = clock
        self._recorder = Recorder(store, job.request.run_id, job.prepared)
        self._errors: dict[tuple[str, str], wire.BenchError] = {}
        """By board (or instruction set) and variant."""

    def go(self) -> Report:
        """Measure and store; raises only what makes the whole run impossible."""
        request = self._job.request
        if self._job.past is None:
            self._store.record_run(run_record(request, self._job.experiment, self._clock.utc()))
        else:
            self._store.resume_run(request.run_id)
        state: EndOfRun = "failed"
        try:
            ending = conduct(
                self._job.boards,
                run_id=request.run_id,
                holder=f"{getpass.getuser()}@{socket.gethostname()}",
                host=socket.gethostname(),
                prepare=self._prepare,
                listen=self._hear,
                clock=self._clock,
                patience=self._job.patience,
                stored=stored_attempts(self._store),
            )
            errors = (
                *ending.failed.values(), *self._errors.values(), *self._recorder.unscored.values(),
            )  # fmt: skip
            state = self._state(ending, errors)
        except KeyboardInterrupt:  # the second Ctrl-C, while the boards were being let go
            state = "interrupted"
            raise
        finally:
            self._store.finish_run(request.run_id, state, self._clock.utc())
        return Report(request.run_id, state, self._recorder.finished, errors)

    def _state(self, ending: Ending, errors: Sequence[wire.BenchError]) -> EndOfRun:
        if ending.interrupted:
            return "interrupted"
        if errors:
            return "partial" if self._recorder.finished else "failed"
        return "finished"

    def _prepare(self, connected: Mapping[str, BoardConnected]) -> Mapping[str, Assignment]:
        """Plan and build for the boards that answered."""
        prints = {name: event.hello.fingerprint for name, event in connected.items()}
        entries = {entry.name: entry for entry in self._job.entries}
        facts = {name: facts_of(found, entries[name]) for name, found in prints.items()}
        plan = make_plan(self._job.request, self._job.experiment, facts)
        self._display.progress.stage = "building"
        artifacts = ArtifactStore(self._job.artifacts)
        built = build_all(
            self._job.prepared,
            [found.isa for found in prints.values()],
            artifacts,
            self._display.note,
            self._job.build_many,
            self._display.progress.builds,
        )
        self._recorder.built(built)
        for (model, recipe, isa), variant in built.items():
            if isinstance(variant, wire.BenchError):
                self._errors[f"for {isa}", f"{model}/{recipe}"] = variant
        past = self._job.past or Past()
        assignments = assign(plan, self._job.prepared, prints, built, past)
        self._display.progress.plan(
            {name: len(todo.work) + len(todo.impossible) for name, todo in assignments.items()}
        )
        return assignments

    def _hear(self, event: Event) -> None:
        self._recorder.hear(event)
        self._display.hear(event)
        if isinstance(event, TrialEnded):
            self._ended(event)
        elif isinstance(event, TrialSkipped):
            self._skipped(event)

    def _ended(self, event: TrialEnded) -> None:
        """Keep one error for each board and variant; the later blocks are skipped anyway."""
        key, failure = (event.board, variant_of(event)), event.outcome.failure
        if event.outcome.state == "finished":
            self._errors.pop(key, None)  # an attempt before had been cut short
        elif event.outcome.state != "cancelled":
            kind = BoardFailure if failure is None else type(from_failure(failure, event.board))
            why = f"ended as '{event.outcome.state}'" if failure is None else failure.message
            self._errors.setdefault(key, kind(f"{event.board}: {key[1]}: {why}"))

    def _skipped(self, event: TrialSkipped) -> None:
        """Keep the reason, unless it is that of a build or of a trial that is kept already."""
        key = (event.board, variant_of(event))
        if key in self._errors or event.reason in map(str, self._errors.values()):
            return
        kind = RunIncomplete if event.error is None else type(event.error)
        self._errors[key] = kind(
            f"{event.board}: {key[1]}: {event.reason.removeprefix(f'{event.board}: ')}"
        )


def run_record(request: RunRequest, experiment: Experiment, started_utc: datetime) -> RunRecord:
    """A run as it is stored: the whole request and experiment, and what this host is."""
    packages = {name: metadata.version(name) for name in ("onnx", "onnxruntime", "rpyc")}
    whole = {
        "request": dataclasses.asdict(request),
        "experiment": dataclasses.asdict(experiment),
    }
    return RunRecord(
        run_id=request.run_id,
        started_utc=started_utc,
        experiment=experiment.name,
        experiment_json=json.dumps(msgspec.to_builtins(whole, enc_hook=str), sort_keys=True),
        profile=experiment.profile.name,
        seed=request.seed,
        host=host_facts(packages),
        software_version=software_version(),
    )
