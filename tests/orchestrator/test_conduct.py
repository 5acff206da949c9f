"""A run over several boards, on fake boards and a fake clock."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import msgspec
import psutil
import pytest
from support.leftovers import open_files
from support.onnxmodels import as_file, tiny_model
from support.runs import CLOCK, RUN_ID, SCENARIO, assignment, fake_board, model_file, of_kind, run

from agent import wire
from orchestrator.boards.fake import FakeTrial
from orchestrator.boards.local import LocalBoard
from orchestrator.clock import SystemClock
from orchestrator.errors import (
    AgentDied,
    BoardUnreachable,
    HostKeyRejected,
    LeaseHeld,
    TransferFailed,
)
from orchestrator.events import (
    BoardConnecting,
    BoardDone,
    BoardFailed,
    Event,
    TrialEnded,
    TrialSkipped,
    TrialStarted,
)
from orchestrator.execute import PATIENCE, Assignment
from results.errors import RecordRefused


def ended_states(events: list[Event], board: str | None = None) -> list[str]:
    return [e.outcome.state for e in of_kind(events, TrialEnded, board)]  # type: ignore[attr-defined]


def test_every_trial_is_measured_in_order(tmp_path: Path) -> None:
    """Each board measures its trials in the plan's order and is left without journals or lease."""
    file = model_file(tmp_path)
    board = fake_board("a")
    ending, events = run([board], {"a": assignment("a", [("fp32", file), ("int8", file)])})
    started = [e.trial.recipe for e in of_kind(events, TrialStarted)]  # type: ignore[attr-defined]
    assert started == ["fp32", "int8"]
    assert ended_states(events) == ["finished", "finished"]
    assert (dict(ending.failed), ending.interrupted) == ({}, False)
    assert board.agent.trials_by_id == {}
    assert board.agent.lease_holder is None


def test_journals_that_are_stored_already_are_forgotten(tmp_path: Path) -> None:
    """A board forgets what this database has of any run, and keeps what it has not."""
    file = model_file(tmp_path)
    board = fake_board("a")
    spec = assignment("a", [("fp32", file)]).work[0].spec
    for trial_id in ("stored-before", "of-somebody-else"):
        old = msgspec.structs.replace(spec, trial_id=trial_id)
        board.agent.trials_by_id[trial_id] = FakeTrial(old, 0)
    known = frozenset({"stored-before", "never-seen-there"})
    ending, events = run([board], {"a": assignment("a", [("fp32", file)])}, stored=known)
    assert dict(ending.failed) == {}
    assert ended_states(events) == ["finished"]
    assert list(board.agent.trials_by_id) == ["of-somebody-else"]


def test_boards_are_at_work_at_the_same_time(tmp_path: Path) -> None:
    """No board waits for another: both are inside a trial at once."""
    file = model_file(tmp_path)
    meeting = threading.Barrier(2, timeout=20)
    met: dict[str, bool] = {}

    def meet(name: str) -> None:
        def at(method: str) -> None:
            if method == "poll" and name not in met:
                met[name] = True
                meeting.wait()

        boards[name].agent.sabotage = at

    boards = {name: fake_board(name) for name in ("a", "b")}
    for name in boards:
        meet(name)
    ending, events = run(
        list(boards.values()), {n: assignment(n, [("fp32", file)]) for n in boards}
    )
    assert dict(ending.failed) == {}
    assert ended_states(events) == ["finished", "finished"]


def test_a_failing_board_stops_no_other(tmp_path: Path) -> None:
    """A board that cannot be reached is reported, and the others finish."""
    file = model_file(tmp_path)

    def unreachable(method: str) -> None:
        if method == "connect":
            raise HostKeyRejected("its key is not known", "bad")

    bad, good = fake_board("bad", sabotage=unreachable), fake_board("good")
    ending, events = run([bad, good], {"good": assignment("good", [("fp32", file)])})
    assert ended_states(events, "good") == ["finished"]
    assert isinstance(ending.failed["bad"], HostKeyRejected)
    assert [e.board for e in of_kind(events, BoardFailed)] == ["bad"]


def test_a_bug_on_one_board_is_its_failure_only(tmp_path: Path) -> None:
    """Even an error that nobody foresaw ends one board, with its type and words."""
    file = model_file(tmp_path)

    def bug(method: str) -> None:
        if method == "start":
            raise ZeroDivisionError("a bug")

    bad, good = fake_board("bad", sabotage=bug), fake_board("good")
    ending, events = run([bad, good], {n: assignment(n, [("fp32", file)]) for n in ("bad", "good")})
    assert "ZeroDivisionError: a bug" in str(ending.failed["bad"])
    assert ended_states(events, "good") == ["finished"]


def test_a_broken_line_is_mended(tmp_path: Path) -> None:
    """When the connection breaks during a trial, the same trial is followed to its end."""
    file, breaks = model_file(tmp_path), iter([True, True])

    def flaky(method: str) -> None:
        if method == "poll" and next(breaks, False):
            raise AgentDied("the line broke", "a")

    board = fake_board("a", sabotage=flaky)
    ending, events = run([board], {"a": assignment("a", [("fp32", file)])})
    assert dict(ending.failed) == {}
    assert ended_states(events) == ["finished"]
    assert [e.attempt for e in of_kind(events, BoardConnecting)] == [1, 2, 3]  # type: ignore[attr-defined]


def test_a_dead_line_is_given_up(tmp_path: Path) -> None:
    """A board that stays away is given up after a bounded number of tries."""
    file, started = model_file(tmp_path), threading.Event()

    def dead(method: str) -> None:
        if method == "poll":
            started.set()
        if started.is_set():
            raise BoardUnreachable("no answer", "a")

    board = fake_board("a", sabotage=dead)
    ending, events = run([board], {"a": assignment("a", [("fp32", file)])})
    assert isinstance(ending.failed["a"], BoardUnreachable)
    assert len(of_kind(events, BoardConnecting)) == 1 + len(PATIENCE.reconnect_delays_s)
    assert CLOCK.slept_s["a"] < 90.0


def test_a_model_that_fails_is_not_tried_again(tmp_path: Path) -> None:
    """A variant that cannot run is stored as failed once, then skipped with the reason."""
    good, bad = model_file(tmp_path, "good"), model_file(tmp_path, "bad")
    refused = wire.Failure(kind=wire.FailureKind.MODEL_LOAD, message="unknown operator Foo")
    board = fake_board("a", refuses={bad.sha256: refused})
    order = [("int8", bad), ("fp32", good), ("int8", bad)]
    ending, events = run([board], {"a": assignment("a", order)})
    assert dict(ending.failed) == {}
    assert ended_states(events) == ["failed", "finished"]
    (skipped,) = of_kind(events, TrialSkipped)
    assert "unknown operator Foo" in skipped.reason  # type: ignore[attr-defined]


def test_stored_before_acknowledged(tmp_path: Path) -> None:
    """A trial is acknowledged on the board only after it was stored here."""
    file, calls = model_file(tmp_path), []

    def listen(event: Event) -> None:
        if isinstance(event, TrialEnded):
            calls.append("stored")

    board = fake_board("a", sabotage=lambda m: calls.append(m) if m == "ack" else None)
    run([board], {"a": assignment("a", [("fp32", file)])}, listen)
    assert calls == ["stored", "ack"]


def test_storing_fails(tmp_path: Path) -> None:
    """When a trial cannot be stored the run ends with that error and the board keeps the trial."""
    file, board = model_file(tmp_path), fake_board("a")

    def full_disk(event: Event) -> None:
        if isinstance(event, TrialEnded):
            raise wire.BenchError("database or disk is full")

    with pytest.raises(wire.BenchError, match="disk is full"):
        run([board], {"a": assignment("a", [("fp32", file)])}, full_disk)
    assert len(board.agent.trials_by_id) == 1


def test_held_board(tmp_path: Path) -> None:
    """A board that another run holds is refused, naming the holder, and not disturbed."""
    board = fake_board("a")
    board.agent.lease_holder = wire.LeaseRequest(holder="kim@desk", run_id="other", ttl_s=60)
    board.agent.lease_until_s = board.agent.clock.monotonic_s() + 60
    ending, _ = run([board], {"a": assignment("a", [("fp32", model_file(tmp_path))])})
    assert isinstance(ending.failed["a"], LeaseHeld)
    assert "kim@desk" in str(ending.failed["a"])
    assert board.agent.lease_holder.run_id == "other"


def test_interrupted_run(tmp_path: Path) -> None:
    """Ctrl-C cancels the running trial, keeps it and the finished ones, and frees the board."""
    file, calls = model_file(tmp_path), []

    def interrupt(method: str) -> None:
        calls.append(method)
        if calls.count("start") == 2 and calls[-3:] == ["poll"] * 3:
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(0.3)  # the fake trial would be over before the main thread wakes

    board = fake_board("a", sabotage=interrupt)
    ending, events = run([board], {"a": assignment("a", [("fp32", file)] * 3)})
    assert ending.interrupted
    assert ended_states(events) == ["finished", "cancelled"]
    assert board.agent.trials_by_id == {}
    assert board.agent.lease_holder is None


def test_a_board_that_does_not_stop(tmp_path: Path) -> None:
    """After Ctrl-C a board whose trial goes on and on is left behind, however much it reports."""
    file, board = model_file(tmp_path), fake_board("a")
    told, over = threading.Event(), threading.Event()
    plain = board.agent._poll

    def never(trial_id: str, cursor: int) -> wire.Poll:
        if over.is_set():
            raise AgentDied("the test is over", "a")
        return msgspec.structs.replace(plain(trial_id, cursor), phase="sample")

    def interrupt(method: str) -> None:
        if method == "poll" and not told.is_set():
            told.set()
            os.kill(os.getpid(), signal.SIGINT)
        elif method == "poll":
            time.sleep(0.01)

    board.agent._poll = never  # type: ignore[method-assign]
    board.agent.sabotage = interrupt
    todo = assignment("a", [("fp32", file)])
    spec = msgspec.structs.replace(todo.work[0].spec, deadline_ns=10**18)
    endless = Assignment((dataclasses.replace(todo.work[0], spec=spec),))
    started = time.monotonic()
    ending, _ = run([board], {"a": endless}, stop_patience_s=0.3)
    assert time.monotonic() - started < 10
    assert ending.interrupted
    assert "did not let go within 0.3 s" in str(ending.failed["a"])
    over.set()


def test_second_interrupt(tmp_path: Path) -> None:
    """A second Ctrl-C ends the waiting for boards at once."""
    board, freed, once = fake_board("a"), threading.Event(), iter([True])

    def slow(method: str) -> None:
        if method == "poll" and next(once, False):
            os.kill(os.getpid(), signal.SIGINT)
            while signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
                time.sleep(0.01)  # until the first one has been taken
            os.kill(os.getpid(), signal.SIGINT)
            freed.wait(10)

    board.agent.sabotage = slow
    started = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        run([board], {"a": assignment("a", [("fp32", model_file(tmp_path))])})
    assert time.monotonic() - started < 5
    freed.set()


def test_a_record_that_is_refused(tmp_path: Path) -> None:
    """A trial whose content is refused is its board's failure, and no reason to stop the others."""
    file, boards = model_file(tmp_path), [fake_board("liar"), fake_board("honest")]

    def refuse(event: Event) -> None:
        if isinstance(event, TrialEnded) and event.board == "liar":
            raise RecordRefused("the counts do not agree")

    todo = {board.name: assignment(board.name, [("fp32", file)]) for board in boards}
    ending, events = run(boards, todo, refuse)
    assert isinstance(ending.failed["liar"], RecordRefused)
    assert str(ending.failed["liar"]) == "liar: the counts do not agree"
    assert ended_states(events, "honest") == ["finished"]
    assert len(boards[0].agent.trials_by_id) == 1


def test_interrupt_while_building(tmp_path: Path) -> None:
    """Ctrl-C during the builds ends the run at once, and the boards are let go."""
    board = fake_board("a")

    def building() -> dict[str, object]:
        os.kill(os.getpid(), signal.SIGINT)
        raise AssertionError("the build went on after Ctrl-C")

    ending, events = run([board], building)  # type: ignore[arg-type]
    assert ending.interrupted
    assert len(of_kind(events, BoardDone)) == 1
    assert board.agent.lease_holder is None


def test_interrupted_trial_is_measured_again(tmp_path: Path) -> None:
    """A trial that the board's death cut short is stored as it is and measured once more."""
    file, board = model_file(tmp_path), fake_board("a")
    plain = board.agent._outcome
    cut = []

    def outcome(trial_id: str) -> wire.Outcome:
        true = plain(trial_id)
        if cut and trial_id not in cut:
            return true
        cut.append(trial_id)
        lost = wire.Failure(kind=wire.FailureKind.INTERRUPTED, message="power was lost")
        return msgspec.structs.replace(true, state="interrupted", failure=lost)

    board.agent._outcome = outcome  # type: ignore[method-assign]
    ending, events = run([board], {"a": assignment("a", [("fp32", file)])})
    assert dict(ending.failed) == {}
    assert ended_states(events) == ["interrupted", "finished"]
    first, second = (e.spec.trial_id for e in of_kind(events, TrialEnded))  # type: ignore[attr-defined]
    assert first != second


def test_a_corrupt_part_is_not_stored(tmp_path: Path) -> None:
    """A journal that does not have its digest is refused and stays on the board."""
    file, board = model_file(tmp_path), fake_board("a")
    board.agent._read = lambda *args: b"x" * min(10, args[3])  # type: ignore[method-assign,misc]
    ending, events = run([board], {"a": assignment("a", [("fp32", file)])})
    assert isinstance(ending.failed["a"], TransferFailed)
    assert ended_states(events) == []
    assert len(board.agent.trials_by_id) == 1


def test_many_boards(tmp_path: Path) -> None:
    """Two hundred boards in one run all finish, and leave no thread and no open file behind."""
    file, before = model_file(tmp_path), threading.active_count()
    files = open_files()
    boards = [fake_board(f"b{i}") for i in range(200)]
    ending, events = run(boards, {b.name: assignment(b.name, [("fp32", file)]) for b in boards})
    assert dict(ending.failed) == {}
    assert ended_states(events) == ["finished"] * 200
    assert threading.active_count() <= before + 2
    assert open_files() <= files
    assert RUN_ID not in {b.agent.lease_holder for b in boards}


@pytest.mark.slow
def test_many_agents(tmp_path: Path) -> None:
    """Eight real agents in one run all finish, and no thread, file or process stays behind."""
    file = as_file(tiny_model(tmp_path / "tiny.onnx"))
    brief = msgspec.structs.replace(SCENARIO, min_samples=16, min_duration_ns=0)
    boards = []
    for i in range(8):
        home = tmp_path / f"agent{i}"
        options = ("--idle-s", "5", "--lock", f"{home}.lock")
        boards.append(LocalBoard(f"l{i}", home=home, python=sys.executable, extra=options))
    todo = {b.name: assignment(b.name, [("fp32", file)], brief) for b in boards}
    threads, files = threading.active_count(), open_files()
    children = set(psutil.Process().children(recursive=True))
    ending, events = run(boards, todo, clock=SystemClock())
    assert dict(ending.failed) == {}
    assert ended_states(events) == ["finished"] * 8
    assert set(psutil.Process().children(recursive=True)) <= children
    wait_for(lambda: threading.active_count() <= threads and open_files() <= files, 5)
    wait_for(lambda: not agents_of(tmp_path), 40)


def wait_for(condition: Callable[[], bool], patience_s: float) -> None:
    """A thread that has said its last word needs a moment to end, an agent its idle time."""
    deadline = time.monotonic() + patience_s
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.1)
    assert condition()


def agents_of(folder: Path) -> list[int]:
    """Processes whose command names this folder; agents stop when they were idle for a while."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if any(str(folder) in word for word in process.cmdline()):
                found.append(process.pid)
    return found
