"""Runs over fake boards: planned trials, assignments and a conductor without any I/O."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from support.clock import FakeClock
from support.onnxmodels import as_file

from agent import wire
from orchestrator.boards.base import Board
from orchestrator.boards.fake import FakeAgent, FakeBoard
from orchestrator.clock import Clock
from orchestrator.conduct import Ending, conduct
from orchestrator.events import BoardConnected, Event
from orchestrator.execute import PATIENCE, Assignment, Patience, Work
from orchestrator.plan import PlannedTrial
from orchestrator.transfer import File

RUN_ID = "run-1"
SCENARIO = wire.Scenario(
    warmup_min_samples=2,
    warmup_min_duration_ns=0,
    min_samples=64,
    min_duration_ns=2_000_000_000,
    max_duration_ns=9_000_000_000,
)


CLOCK = FakeClock()
"""One for all tests here: every board's thread has its own time in it."""


def fake_board(name: str, **settings: object) -> FakeBoard:
    return FakeBoard(name, FakeAgent(CLOCK, **settings))  # type: ignore[arg-type]


def model_file(folder: Path, name: str = "model") -> File:
    path = folder / f"{name}.onnx"
    path.write_bytes(name.encode() * 1000)
    return as_file(path)


def planned(
    board: str,
    order: int,
    recipe: str = "fp32",
    block: int = 0,
    scenario: wire.Scenario = SCENARIO,
) -> PlannedTrial:
    return PlannedTrial(
        trial_id=f"{board}-{order}".encode().hex().ljust(32, "0")[:32],
        board=board,
        block=block,
        order=order,
        model="tiny",
        recipe=recipe,
        scenario=scenario,
        evaluate=False,
        options=wire.RuntimeOptions(intra_op_num_threads=1),
        evaluation_images=0,
        evaluation_cap_ns=0,
        deadline_ns=60_000_000_000,
    )


def work(trial: PlannedTrial, file: File) -> Work:
    spec = wire.TrialSpec(
        trial_id=trial.trial_id,
        run_id=RUN_ID,
        artifact=wire.ArtifactRef(sha256=file.sha256, size_bytes=file.size_bytes, format="onnx"),
        options=trial.options,
        scenario=trial.scenario,
        inputs=wire.Inputs(),
        deadline_ns=trial.deadline_ns,
    )
    return Work(trial, spec, (file,))


def assignment(
    board: str, files: Sequence[tuple[str, File]], scenario: wire.Scenario = SCENARIO
) -> Assignment:
    """One trial for each (recipe, file), in order."""
    return Assignment(
        tuple(
            work(planned(board, i, recipe, scenario=scenario), file)
            for i, (recipe, file) in enumerate(files)
        )
    )


def run(
    boards: Sequence[Board],
    assignments: Mapping[str, Assignment] | Callable[[], Mapping[str, Assignment]],
    listen: Callable[[Event], None] | None = None,
    stop_patience_s: float = 20.0,
    patience: Patience = PATIENCE,
    stored: frozenset[str] = frozenset(),
    clock: Clock = CLOCK,
) -> tuple[Ending, list[Event]]:
    """Conduct boards to their end and return every event that was heard."""
    events: list[Event] = []

    def hear(event: Event) -> None:
        if listen is not None:
            listen(event)
        events.append(event)

    def prepare(_connected: Mapping[str, BoardConnected]) -> Mapping[str, Assignment]:
        return assignments() if callable(assignments) else assignments

    ending = conduct(
        boards, run_id=RUN_ID, holder="tester", host="host",
        prepare=prepare, listen=hear, clock=clock,
        stop_patience_s=stop_patience_s, patience=patience, stored=stored,
    )  # fmt: skip
    return ending, events


def of_kind(events: Sequence[Event], kind: type[Event], board: str | None = None) -> list[Event]:
    return [e for e in events if type(e) is kind and board in (None, e.board)]
