"""The main job end to end on fake boards, with real builds and a real database."""

from __future__ import annotations

import dataclasses
import itertools
import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import pytest
from support.jobs import MOMENT, adhoc, job, run, voc
from support.onnxmodels import tiny_model
from support.runs import fake_board

from agent import wire
from models.errors import BuildFailed
from orchestrator.boards.fake import FakeBoard
from orchestrator.errors import (
    AgentDied,
    BoardFailure,
    BoardUnreachable,
    Interrupted,
    ModelRefused,
    ModelTooLarge,
    RunIncomplete,
)
from orchestrator.past import Past
from orchestrator.runner import Job, Report, run_record
from results.errors import ResultsError
from results.store import Store


@pytest.fixture(autouse=True)
def one_build_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """Builds in this process: starting others takes seconds."""
    monkeypatch.setattr("orchestrator.assign.BUILD_WORKERS", 1)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with Store.open(tmp_path / "results.sqlite", create=True) as opened:
        yield opened


def tiny_job(folder: Path, *boards: FakeBoard) -> Job:
    """Two blocks of one variant of a tiny model."""
    return job(folder, adhoc(folder, str(tiny_model(folder / "tiny.onnx").name)), boards)


def two_model_job(folder: Path, *boards: FakeBoard) -> Job:
    """As `tiny_job`, with a second model that differs."""
    tiny_model(folder / "tiny.onnx")
    tiny_model(folder / "other.onnx", size=12)
    one, other = adhoc(folder, "tiny.onnx"), adhoc(folder, "other.onnx")
    both = dataclasses.replace(one, models=(*one.models, *other.models))
    return job(folder, both, boards)


def sha_of(store: Store, model: str) -> str:
    (row,) = store.rows("SELECT artifact_sha256 FROM artifacts WHERE model = :model", model=model)
    return str(row["artifact_sha256"])


def states(store: Store) -> list[tuple[str, str]]:
    rows = store.rows("SELECT board, state FROM trials ORDER BY trial_no")
    return [(row["board"], row["state"]) for row in rows]


def run_state(store: Store) -> str:
    (row,) = store.rows("SELECT state FROM runs")
    return str(row["state"])


def refusing(board: FakeBoard, method: str, refuse: Callable[[str], bool], kind: str) -> None:
    """Answer a method with a failure where `refuse` says so of its first argument."""
    plain = board.agent._serve

    def serve(called: str, *args: object) -> str | bytes:
        if called == method and refuse(str(args[0])):
            failure = wire.Failure(kind=wire.FailureKind(kind), message=f"{kind} it is")
            return wire.encode(wire.Reply[bool](failure=failure))
        return plain(called, *args)  # type: ignore[arg-type]

    board.agent._serve = serve  # type: ignore[method-assign]


def test_everything_is_stored(tmp_path: Path, store: Store) -> None:
    """Each board's trials are stored with board, artifact and run, and the report is clean."""
    lines: list[str] = []
    report = run(store, tiny_job(tmp_path, fake_board("a"), fake_board("b")), lines.append)
    assert (report.state, report.finished_trials, report.errors) == ("finished", 4, ())
    report.raise_if_incomplete()
    assert sorted(states(store)) == [("a", "finished")] * 2 + [("b", "finished")] * 2
    assert run_state(store) == "finished"
    assert sum("finished" in line for line in lines) >= 4


def test_a_board_that_fails(tmp_path: Path, store: Store) -> None:
    """One board's failure makes the run partial, with that board's own error and exit code."""

    def unreachable(method: str) -> None:
        if method == "connect":
            raise BoardUnreachable("no answer", "bad")

    report = run(
        store, tiny_job(tmp_path, fake_board("bad", sabotage=unreachable), fake_board("a"))
    )
    assert (report.state, report.finished_trials) == ("partial", 2)
    with pytest.raises(BoardUnreachable, match="bad: no answer"):
        report.raise_if_incomplete()
    assert run_state(store) == "partial"


def test_no_board_answers(tmp_path: Path, store: Store) -> None:
    """Where no board answers nothing is built, and the run has failed."""

    def unreachable(method: str) -> None:
        raise BoardUnreachable("no answer", "x")

    todo = tiny_job(tmp_path, *(fake_board(n, sabotage=unreachable) for n in ("a", "b")))
    report = run(store, todo)
    assert (report.state, len(report.errors)) == ("failed", 2)
    assert not todo.artifacts.exists() or not any(todo.artifacts.rglob("*.onnx"))
    with pytest.raises(BoardUnreachable):
        report.raise_if_incomplete()


def test_failures_of_different_kinds(tmp_path: Path, store: Store) -> None:
    """Boards that fail for different reasons end in the one class that stands for that."""

    def break_with(error: wire.BenchError) -> Callable[[str], None]:
        def sabotage(method: str) -> None:
            if method == "has":
                raise error

        return sabotage

    boards = [
        fake_board("a", sabotage=break_with(wire.WireError("nonsense"))),
        fake_board("b", sabotage=break_with(AgentDied("dead", "b"))),
    ]
    report = run(store, tiny_job(tmp_path, *boards))
    with pytest.raises(RunIncomplete) as caught:
        report.raise_if_incomplete()
    assert "nonsense" in str(caught.value)
    assert "b: dead" in str(caught.value)


def test_one_error_for_many_blocks(tmp_path: Path, store: Store) -> None:
    """A variant that fails is reported once for its board, however many blocks it has."""
    board = fake_board("a")
    plain = board.agent._outcome
    refused = wire.Failure(kind=wire.FailureKind.MODEL_LOAD, message="unknown operator")

    def outcome(trial_id: str) -> wire.Outcome:
        return msgspec.structs.replace(plain(trial_id), state="failed", failure=refused)

    board.agent._outcome = outcome  # type: ignore[method-assign]
    report = run(store, tiny_job(tmp_path, board))
    (error,) = report.errors
    assert isinstance(error, ModelRefused)
    assert str(error) == "a: tiny/fp32: unknown operator"
    assert states(store) == [("a", "failed")]
    assert report.state == "failed"


def test_cut_short_for_good(tmp_path: Path, store: Store) -> None:
    """A trial that never gets to its end makes the run incomplete, though every attempt is kept."""
    board = fake_board("a")
    plain = board.agent._outcome
    lost = wire.Failure(kind=wire.FailureKind.INTERRUPTED, message="power was lost")

    def outcome(trial_id: str) -> wire.Outcome:
        return msgspec.structs.replace(plain(trial_id), state="interrupted", failure=lost)

    board.agent._outcome = outcome  # type: ignore[method-assign]
    report = run(store, tiny_job(tmp_path, board))
    assert states(store) == [("a", "interrupted")] * 2
    (error,) = report.errors
    assert isinstance(error, AgentDied)
    assert str(error) == "a: tiny/fp32: power was lost"


def test_cut_short_once(tmp_path: Path, store: Store) -> None:
    """A trial that was cut short and measured on the second try leaves no error."""
    board = fake_board("a")
    plain, first = board.agent._outcome, itertools.count()
    lost = wire.Failure(kind=wire.FailureKind.INTERRUPTED, message="power was lost")

    def outcome(trial_id: str) -> wire.Outcome:
        true = plain(trial_id)
        if next(first):
            return true
        return msgspec.structs.replace(true, state="interrupted", failure=lost)

    board.agent._outcome = outcome  # type: ignore[method-assign]
    report = run(store, tiny_job(tmp_path, board))
    assert (report.state, report.errors) == ("finished", ())
    assert states(store) == [("a", "interrupted"), ("a", "finished"), ("a", "finished")]


def test_a_model_too_large(tmp_path: Path, store: Store) -> None:
    """A model that a board refuses for its size is that board's error; the rest is measured."""
    board = fake_board("a")
    big: list[str] = []
    refusing(board, "start", lambda spec: any(sha in spec for sha in big), "too_large")
    todo = two_model_job(tmp_path, board)
    run(store, todo)
    big.append(sha_of(store, "other"))
    report = run(
        store, dataclasses.replace(todo, request=dataclasses.replace(todo.request, run_id="r2"))
    )
    (error,) = report.errors
    assert isinstance(error, ModelTooLarge)
    assert str(error) == "a: other/fp32: too_large it is"
    assert (report.state, report.finished_trials) == ("partial", 2)


def test_a_build_that_fails(tmp_path: Path, store: Store) -> None:
    """A variant that cannot be built is reported once for all boards; the others are measured."""
    todo = two_model_job(tmp_path, fake_board("a"), fake_board("b"))
    spec = todo.prepared.models["other"]
    gone = dataclasses.replace(spec.source, path=tmp_path / "gone.onnx", sha256="0" * 64)
    models = {**todo.prepared.models, "other": dataclasses.replace(spec, source=gone)}
    prepared = dataclasses.replace(todo.prepared, models=models)
    report = run(store, dataclasses.replace(todo, prepared=prepared))
    assert (report.state, report.finished_trials, len(report.errors)) == ("partial", 4, 1)
    assert "other/fp32" in str(report.errors[0])


def test_strange_detections(tmp_path: Path, store: Store) -> None:
    """Detections that cannot be scored leave the times stored and make the run incomplete."""
    data = voc(tmp_path / "voc", ("circle", "ring"), {"val": 4})
    board = fake_board("a")
    plain = board.agent._parts
    line = wire.encode(wire.ImageDetections(image_id="nobody", detections=())).encode() + b"\n"

    def parts(trial: object) -> dict[str, bytes]:
        true = plain(trial)  # type: ignore[arg-type]
        return {**true, "detections": line} if "detections" in true else true

    board.agent._parts = parts  # type: ignore[method-assign]
    report = run(store, job(tmp_path, adhoc(tmp_path, "tinydet", data=str(data)), [board]))
    assert states(store) == [("a", "finished")] * 2
    assert (report.state, len(report.errors)) == ("partial", 1)
    assert "a: tinydet/fp32: " in str(report.errors[0])


@pytest.mark.parametrize("field", ["load_ns", "peak_rss_bytes", "ended_monotonic_ns"])
def test_a_board_that_reports_nonsense(field: str, tmp_path: Path, store: Store) -> None:
    """A number that no database holds is its board's failure; the other board goes on."""
    liar, honest = fake_board("liar"), fake_board("honest")
    plain = liar.agent._outcome
    liar.agent._outcome = lambda trial_id: msgspec.structs.replace(  # type: ignore[method-assign]
        plain(trial_id), **{field: 1 << 70}
    )
    report = run(store, tiny_job(tmp_path, liar, honest))
    assert states(store) == [("honest", "finished")] * 2
    (error,) = report.errors
    assert isinstance(error, wire.WireError)
    assert str(error).startswith("liar: ")


def test_an_impossible_time(tmp_path: Path, store: Store) -> None:
    """A latency longer than its trial is its board's failure, and its journal stays there."""
    liar, honest = fake_board("liar"), fake_board("honest")
    plain = liar.agent._parts

    def parts(trial: object) -> dict[str, bytes]:
        true = plain(trial)  # type: ignore[arg-type]
        head = wire.samples_header(1, (0, 0, 1))
        return {**true, "samples": head + b"\xff" * 8 + bytes(8)}

    liar.agent._parts = parts  # type: ignore[method-assign]
    report = run(store, tiny_job(tmp_path, liar, honest))
    assert states(store) == [("honest", "finished")] * 2
    (error,) = report.errors
    assert type(error) is BoardFailure
    assert str(error).startswith("liar: ")
    assert "cannot be true" in str(error)
    assert len(liar.agent.trials_by_id) == 1
    assert liar.agent.lease_holder is None


def test_a_broken_line_is_stored_once(tmp_path: Path, store: Store) -> None:
    """A board that had to be reached again is stored once, and so are its trials."""
    breaks = iter([True] * 3)

    def flaky(method: str) -> None:
        if method == "ack" and next(breaks, False):
            raise AgentDied("the line broke", "a")

    report = run(store, tiny_job(tmp_path, fake_board("a", sabotage=flaky)))
    assert report.state == "finished"
    assert states(store) == [("a", "finished")] * 2
    assert len(store.rows("SELECT 1 FROM boards")) == 1


def test_the_database_fails(tmp_path: Path, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """When nothing can be stored the run ends with that error, and the trials stay on the board."""
    board = fake_board("a")

    def full(record: object) -> None:
        raise ResultsError("database or disk is full")

    monkeypatch.setattr(store, "record_trial", full)
    with pytest.raises(ResultsError, match="disk is full"):
        run(store, tiny_job(tmp_path, board))
    assert len(board.agent.trials_by_id) == 1
    assert (states(store), run_state(store)) == ([], "failed")


def test_interrupted(tmp_path: Path, store: Store) -> None:
    """Ctrl-C marks the run, keeps what was measured and says how much that is."""
    stored, again = itertools.count(), itertools.count()

    def interrupt(method: str) -> None:
        if method == "start" and next(stored) == 1 and next(again) == 0:
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(0.3)  # the fake trial would be over before the main thread wakes

    report = run(store, tiny_job(tmp_path, fake_board("a", sabotage=interrupt)))
    assert (report.state, run_state(store)) == ("interrupted", "interrupted")
    with pytest.raises(Interrupted, match=f"{report.finished_trials} .*r1"):
        report.raise_if_incomplete()
    assert states(store)[0] == ("a", "finished")


def test_interrupted_while_building(
    tmp_path: Path, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ctrl-C during a build stops it at once; the run is marked and the board let go."""

    def slow(*args: object) -> object:
        os.kill(os.getpid(), signal.SIGINT)
        raise AssertionError("the build went on")

    monkeypatch.setattr("orchestrator.runner.build_all", slow)
    board = fake_board("a")
    report = run(store, tiny_job(tmp_path, board))
    assert (report.state, run_state(store)) == ("interrupted", "interrupted")
    assert board.agent.lease_holder is None


def test_a_bug_while_planning(
    tmp_path: Path, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An error that nobody foresaw ends the run as failed, and lets the boards go."""

    def bug(*args: object) -> object:
        raise ZeroDivisionError("a bug")

    monkeypatch.setattr("orchestrator.runner.make_plan", bug)
    board = fake_board("a")
    with pytest.raises(ZeroDivisionError):
        run(store, tiny_job(tmp_path, board))
    assert run_state(store) == "failed"
    assert board.agent.lease_holder is None


def test_resume_measures_the_rest(tmp_path: Path, store: Store) -> None:
    """A run that goes on measures only what is not stored, and ends as finished."""
    stop = itertools.count()

    def cut(method: str) -> None:
        if method == "start" and next(stop):
            raise wire.WireError("cut")

    todo = tiny_job(tmp_path, fake_board("a", sabotage=cut))
    first = run(store, todo)
    assert (first.state, states(store)) == ("partial", [("a", "finished")])
    past = Past(finished=frozenset(store.finished_trials("r1")), attempts=store.attempts("r1"))
    again = dataclasses.replace(todo, boards=[fake_board("a")], past=past)
    second = run(store, again)
    assert (second.state, run_state(store)) == ("finished", "finished")
    assert states(store) == [("a", "finished")] * 2


def test_the_record_of_a_run(tmp_path: Path) -> None:
    """A run's record holds the whole request and experiment as JSON that can be read again."""
    todo = tiny_job(tmp_path)
    record = run_record(todo.request, todo.experiment, MOMENT)
    whole = msgspec.json.decode(record.experiment_json)
    assert whole["request"]["seed"] == todo.request.seed
    assert [model["name"] for model in whole["experiment"]["models"]] == ["tiny"]
    assert {"onnx", "onnxruntime", "rpyc", "hostname"} <= record.host.keys()


@pytest.mark.parametrize(
    ("errors", "kind", "code"),
    [
        ((BuildFailed("a"), BuildFailed("b")), BuildFailed, 23),
        ((BuildFailed("a"), AgentDied("b", "pi")), RunIncomplete, 50),
        ((ModelTooLarge("a", "pi"),), ModelTooLarge, 38),
    ],
)
def test_the_error_that_stands_for_all(
    errors: tuple[wire.BenchError, ...], kind: type[wire.BenchError], code: int
) -> None:
    """Errors of one class end with that class's code, of several with that of an incomplete run."""
    report = Report("r1", "partial", 3, errors)
    with pytest.raises(kind) as caught:
        report.raise_if_incomplete()
    assert type(caught.value) is kind
    assert caught.value.exit_code == code
    for error in errors:
        assert str(error) in str(caught.value)
