"""One board's part of a run, on a fake board that has bad days."""

from __future__ import annotations

import dataclasses
import itertools
import time
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest
from support.runs import (
    CLOCK,
    RUN_ID,
    assignment,
    fake_board,
    model_file,
    of_kind,
    planned,
    run,
    work,
)

from agent import wire
from orchestrator import execute
from orchestrator.boards.fake import FakeBoard
from orchestrator.errors import (
    AgentDied,
    BoardUnreachable,
    LeaseHeld,
    LeaseLost,
    ModelTooLarge,
    TrialDeadline,
)
from orchestrator.events import (
    BoardConnected,
    BoardDone,
    BoardFailed,
    Event,
    GateWaiting,
    PushProgress,
    TrialEnded,
    TrialProgress,
    TrialSkipped,
    TrialStarted,
)
from orchestrator.execute import LEASE_TTL_S, Assignment, Patience, attempt_id
from orchestrator.gate import Gate
from orchestrator.transfer import File


def measured(
    board: FakeBoard, *variants: tuple[str, File]
) -> tuple[dict[str, object], list[Event]]:
    """Run the variants on one board: the failures, and all events."""
    ending, events = run([board], {board.name: assignment(board.name, variants)})
    return dict(ending.failed), events


def on(method: str, act: Callable[[int], None]) -> Callable[[str], None]:
    """A saboteur that acts on each call of one method, told how many came before."""
    count = itertools.count()

    def sabotage(called: str) -> None:
        if called == method:
            act(next(count))

    return sabotage


def too_slow(seconds: float, *, first: int = 0, last: int = 10**9) -> Callable[[int], None]:
    return lambda number: CLOCK.sleep(seconds) if first <= number <= last else None


@pytest.fixture
def file(tmp_path: Path) -> File:
    return model_file(tmp_path)


# ---------------------------------------------------------------- the lease


def test_a_slow_push_keeps_the_lease(tmp_path: Path) -> None:
    """A push that takes longer than the lease lasts does not lose the board."""
    files = [model_file(tmp_path, f"model{n}") for n in range(8)]
    board = fake_board("a", sabotage=on("put_chunk", too_slow(LEASE_TTL_S / 2.5)))
    failed, events = measured(board, *[(f"r{n}", file) for n, file in enumerate(files)])
    assert failed == {}
    assert len(of_kind(events, TrialEnded)) == 8


def test_slow_storing_keeps_the_board(file: File) -> None:
    """When storing outlasts the lease, the board is taken again for the next trial."""
    board = fake_board("a", sabotage=on("ack", too_slow(3 * LEASE_TTL_S)))
    failed, events = measured(board, ("fp32", file), ("int8", file))
    assert failed == {}
    assert len(of_kind(events, TrialEnded)) == 2


def test_taken_between_two_trials(file: File) -> None:
    """A board that another run took in the meantime is left to that run, which is named."""
    board = fake_board("a")

    def taken(number: int) -> None:
        CLOCK.sleep(2 * LEASE_TTL_S)
        board.agent.lease_holder = wire.LeaseRequest(holder="kim@desk", run_id="hers", ttl_s=500)
        board.agent.lease_until_s = CLOCK.monotonic_s() + 500

    board.agent.sabotage = on("ack", taken)
    failed, events = measured(board, ("fp32", file), ("int8", file))
    assert isinstance(failed["a"], LeaseHeld)
    assert "kim@desk" in str(failed["a"])
    assert len(of_kind(events, TrialEnded)) == 1
    assert board.agent.lease_holder.run_id == "hers"


def test_lease_lost_in_a_gate(file: File) -> None:
    """A lease that is lost while the board cools ends the board's part, not the run's."""
    hot, cool = fake_board("hot"), fake_board("cool")

    def steal(number: int) -> None:
        hot.agent.lease_holder = None

    hot.agent.temp_c = 90.0
    hot.agent.sabotage = on("renew", steal)
    todo = Assignment((work(planned("hot", 0), file),), gate=Gate(60.0, 300.0))
    ending, events = run([hot, cool], {"hot": todo, "cool": assignment("cool", [("fp32", file)])})
    assert isinstance(ending.failed["hot"], LeaseLost)
    assert len(of_kind(events, TrialEnded, "cool")) == 1


def test_held_board_is_no_reason_to_build(file: File) -> None:
    """A board that another run holds fails before anything is planned or built for it."""
    board, built = fake_board("a"), []
    board.agent.lease_holder = wire.LeaseRequest(holder="kim@desk", run_id="hers", ttl_s=60)
    board.agent.lease_until_s = CLOCK.monotonic_s() + 60

    def build() -> dict[str, Assignment]:
        built.append(1)
        return {"a": assignment("a", [("fp32", file)])}

    ending, events = run([board], build)
    assert isinstance(ending.failed["a"], LeaseHeld)
    assert (built, of_kind(events, BoardConnected)) == ([], [])


def test_lease_while_building(file: File) -> None:
    """Boards are kept while the host builds, however long that takes."""
    leases = []
    board = fake_board("a", sabotage=on("lease", leases.append))

    def slow_build() -> dict[str, Assignment]:
        while len(leases) < 4:  # one at first, then one each quarter of the lease's time
            time.sleep(0.01)
        return {"a": assignment("a", [("fp32", file)])}

    ending, _ = run([board], slow_build, patience=Patience(lease_ttl_s=0.2))
    assert dict(ending.failed) == {}


@pytest.mark.parametrize("method", ["hello", "has", "start", "outcome"])
def test_the_board_is_given_back_after_an_error(method: str, file: File) -> None:
    """Whatever stops a board's part, the next run need not wait for the lease to expire."""

    def bug(number: int) -> None:
        if board.agent.lease_holder is not None:
            raise wire.WireError("nonsense")

    board = fake_board("a")
    board.agent.sabotage = on(method, bug)
    failed, events = measured(board, ("fp32", file))
    if method != "hello":
        assert isinstance(failed["a"], wire.WireError)
    assert board.agent.lease_holder is None
    assert len(of_kind(events, BoardFailed)) + len(of_kind(events, BoardDone)) == 1


def test_release_fails(file: File) -> None:
    """A board that cannot be told to let go has done its work all the same."""

    def gone(number: int) -> None:
        raise AgentDied("the line broke", "a")

    board = fake_board("a", sabotage=on("release", gone))
    failed, events = measured(board, ("fp32", file))
    assert failed == {}
    assert len(of_kind(events, BoardDone)) == 1


@pytest.mark.parametrize("error", [SystemExit(1), KeyboardInterrupt(), ZeroDivisionError("a bug")])
@pytest.mark.parametrize("method", ["connect", "poll"])
def test_any_error_is_heard(method: str, error: BaseException, file: File) -> None:
    """Even what would end a thread silently ends a board's part with an event."""

    def bug(number: int) -> None:
        raise error

    failed, events = measured(fake_board("a", sabotage=on(method, bug)), ("fp32", file))
    assert type(error).__name__ in str(failed["a"])
    assert len(of_kind(events, BoardFailed)) == 1


# ---------------------------------------------------------------- deadlines and broken lines


def test_deadline_passed(file: File) -> None:
    """A trial that the board does not end at its deadline is cancelled, and the board given up."""
    board, cancelled = fake_board("a"), []
    plain = board.agent._poll

    def never(trial_id: str, cursor: int) -> wire.Poll:
        return msgspec.structs.replace(plain(trial_id, cursor), phase="sample")

    board.agent._poll = never  # type: ignore[method-assign]
    board.agent.sabotage = on("cancel", cancelled.append)
    failed, events = measured(board, ("fp32", file))
    assert isinstance(failed["a"], TrialDeadline)
    assert "still in phase 'sample' 30 s after its deadline" in str(failed["a"])
    assert (len(cancelled), of_kind(events, TrialEnded)) == (1, [])
    assert 90 <= CLOCK.slept_s["a"] < 100


def test_rare_polls_while_sampling(file: File) -> None:
    """The board is asked once a second while it samples, not more often."""
    board = fake_board("a")
    _, events = measured(board, ("fp32", file))
    polls = [e for e in of_kind(events, TrialProgress) if e.poll.phase == "sample"]  # type: ignore[attr-defined]
    assert 1 <= len(polls) <= 3  # it samples for two seconds


def test_readings_once(file: File) -> None:
    """Each poll asks for what is new only."""
    _, events = measured(fake_board("a"), ("fp32", file))
    counts = [len(e.poll.readings) for e in of_kind(events, TrialProgress)]  # type: ignore[attr-defined]
    assert counts[0] == 1
    assert set(counts[1:]) == {0}


def test_a_line_that_breaks_again_and_again(file: File) -> None:
    """A line that never holds long enough is given up, after waits that grow."""

    def broken(number: int) -> None:
        raise BoardUnreachable("no answer", "a")

    board = fake_board("a", sabotage=on("has", broken))
    failed, events = measured(board, ("fp32", file))
    assert isinstance(failed["a"], BoardUnreachable)
    assert len(of_kind(events, BoardConnected)) == 1 + len(execute.RECONNECT_DELAYS_S)
    assert CLOCK.slept_s["a"] == pytest.approx(sum(execute.RECONNECT_DELAYS_S))


def test_a_line_that_breaks_now_and_then(file: File) -> None:
    """Each action has its own tries: many single breaks in a long run do not add up."""

    def flaky(number: int) -> None:
        if number % 2 == 0:
            raise AgentDied("the line broke", "a")

    board = fake_board("a", sabotage=on("ack", flaky))
    failed, events = measured(board, *[(f"r{n}", file) for n in range(8)])
    assert failed == {}
    assert len(of_kind(events, TrialEnded)) == 8


def test_an_agent_that_forgot(file: File) -> None:
    """When the agent has died with its trial, the trial is started again under the same id."""
    board, forgotten = fake_board("a"), []

    def die(number: int) -> None:
        if number == 1:
            forgotten.append(list(board.agent.trials_by_id))
            board.agent.trials_by_id.clear()
            board.agent.lease_holder = None
            raise AgentDied("killed", "a")

    board.agent.sabotage = on("poll", die)
    failed, events = measured(board, ("fp32", file))
    assert failed == {}
    (ended,) = of_kind(events, TrialEnded)
    assert forgotten == [[ended.spec.trial_id]]  # type: ignore[attr-defined]


def test_an_error_of_another_kind_is_not_retried(file: File) -> None:
    """A board that talks nonsense is not asked again and again."""
    calls = []

    def nonsense(number: int) -> None:
        calls.append(number)
        raise wire.WireError("nonsense")

    failed, _ = measured(fake_board("a", sabotage=on("poll", nonsense)), ("fp32", file))
    assert isinstance(failed["a"], wire.WireError)
    assert calls == [0]


# ---------------------------------------------------------------- what cannot be measured


def refusing(board: FakeBoard, file: File, kind: wire.FailureKind, words: str) -> None:
    """Make the board refuse to start a file at all, before there is a trial."""
    plain = board.agent._serve

    def serve(method: str, *args: object) -> str | bytes:
        if method == "start" and file.sha256 in str(args[0]):
            return wire.encode(wire.Reply[bool](failure=wire.Failure(kind=kind, message=words)))
        return plain(method, *args)  # type: ignore[arg-type]

    board.agent._serve = serve  # type: ignore[method-assign]


def test_a_model_too_large_for_the_board(tmp_path: Path) -> None:
    """A model that does not fit is skipped with the board's figures; the others are measured."""
    small, large = model_file(tmp_path, "small"), model_file(tmp_path, "large")
    board = fake_board("a")
    refusing(board, large, wire.FailureKind.TOO_LARGE, "needs 900 MB and 300 MB are available")
    failed, events = measured(board, ("fp32", large), ("int8", small), ("fp32", large))
    assert failed == {}
    assert len(of_kind(events, TrialEnded)) == 1
    first, second = of_kind(events, TrialSkipped)
    assert isinstance(first.error, ModelTooLarge)  # type: ignore[attr-defined]
    assert "needs 900 MB" in first.reason  # type: ignore[attr-defined]
    assert "needs 900 MB" in second.reason  # type: ignore[attr-defined]
    assert len(of_kind(events, TrialStarted)) == 2


def test_impossible_trials_are_told(file: File) -> None:
    """What could not be built is skipped with the reason, before anything is measured."""
    trials = [planned("a", order, recipe) for order, recipe in enumerate(["fp32", "bad"])]
    todo = Assignment((work(trials[0], file),), ((trials[1], "step int8_ptq: no calibration"),))
    ending, events = run([fake_board("a")], {"a": todo})
    (skipped,) = of_kind(events, TrialSkipped)
    assert skipped.reason == "step int8_ptq: no calibration"  # type: ignore[attr-defined]
    assert events.index(skipped) < events.index(of_kind(events, TrialStarted)[0])
    assert dict(ending.failed) == {}


def test_nothing_to_do(file: File) -> None:
    """A board without work is connected, released and done."""
    board = fake_board("a")
    ending, events = run([board], {"a": Assignment(())})
    assert dict(ending.failed) == {}
    assert len(of_kind(events, BoardDone)) == 1
    assert board.agent.lease_holder is None


def test_failed_in_one_model_only(tmp_path: Path) -> None:
    """A recipe that fails for one model is still measured for another."""
    good, bad = model_file(tmp_path, "good"), model_file(tmp_path, "bad")
    refused = wire.Failure(kind=wire.FailureKind.MODEL_LOAD, message="unknown operator")
    board = fake_board("a", refuses={bad.sha256: refused})
    other = dataclasses.replace(planned("a", 1), model="other")
    _, events = run([board], {"a": Assignment((work(planned("a", 0), bad), work(other, good)))})
    states = [e.outcome.state for e in of_kind(events, TrialEnded)]  # type: ignore[attr-defined]
    assert states == ["failed", "finished"]


def test_cut_short_twice(file: File) -> None:
    """A trial that is cut short every time is stored each time, then its variant skipped."""
    board = fake_board("a")
    plain = board.agent._outcome
    lost = wire.Failure(kind=wire.FailureKind.INTERRUPTED, message="power was lost")

    def outcome(trial_id: str) -> wire.Outcome:
        return msgspec.structs.replace(plain(trial_id), state="interrupted", failure=lost)

    board.agent._outcome = outcome  # type: ignore[method-assign]
    failed, events = measured(board, ("fp32", file), ("fp32", file))
    assert failed == {}
    assert [e.attempt for e in of_kind(events, TrialEnded)] == [1, 2]  # type: ignore[attr-defined]
    (skipped,) = of_kind(events, TrialSkipped)
    assert skipped.reason == "a: power was lost"  # type: ignore[attr-defined]


def test_gate_events(file: File) -> None:
    """Waiting for a cool board is told, with the limit."""
    board = fake_board("a")
    board.agent.temp_c = 80.0
    todo = Assignment((work(planned("a", 0), file),), gate=Gate(60.0, 5.0))
    _, events = run([board], {"a": todo})
    assert {(e.temp_c, e.max_temp_c) for e in of_kind(events, GateWaiting)} == {(80.0, 60.0)}  # type: ignore[attr-defined]
    (ended,) = of_kind(events, TrialEnded)
    assert ended.gate.reached is False  # type: ignore[attr-defined]


def test_files_shared_by_trials_are_pushed_once(file: File) -> None:
    """Trials that need the same file cause one push of it."""
    _, events = measured(fake_board("a"), *[(f"r{n}", file) for n in range(5)])
    assert {e.files_total for e in of_kind(events, PushProgress)} == {1}  # type: ignore[attr-defined]
    assert max(e.moved_bytes for e in of_kind(events, PushProgress)) == file.size_bytes  # type: ignore[attr-defined]


def test_run_id_is_in_the_lease(file: File) -> None:
    """The board knows which run holds it and who asked."""
    board, held = fake_board("a"), []
    board.agent.sabotage = on("start", lambda n: held.append(board.agent.lease_holder))
    measured(board, ("fp32", file))
    assert held[0] is not None
    assert (held[0].run_id, held[0].holder, held[0].ttl_s) == (RUN_ID, "tester", LEASE_TTL_S)


def test_attempt_ids() -> None:
    """The first attempt has the plan's id; each further one has an id of its own, of equal form."""
    first = "0123456789abcdef0123456789abcdef"
    ids = [attempt_id(first, attempt) for attempt in range(1, 5)]
    assert ids[0] == first
    assert len(set(ids)) == 4
    assert {len(one) for one in ids} == {32}
    assert ids == [attempt_id(first, attempt) for attempt in range(1, 5)]
