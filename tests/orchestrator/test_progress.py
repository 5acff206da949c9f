"""Folding the events of a run into what a screen shows."""

from __future__ import annotations

import dataclasses
from array import array
from datetime import UTC, datetime

import msgspec
import pytest
from support.runs import fake_board, planned

from agent import wire
from orchestrator.errors import BoardUnreachable
from orchestrator.events import (
    BoardConnected,
    BoardConnecting,
    BoardDone,
    BoardFailed,
    Event,
    GateResult,
    GateWaiting,
    PushProgress,
    TrialEnded,
    TrialProgress,
    TrialSkipped,
    TrialStarted,
)
from orchestrator.progress import BoardProgress, RunProgress, variant_of

MOMENT = datetime(2026, 1, 1, tzinfo=UTC)
TRIAL = planned("pi", 0)
HOSTILE = "\x1b[31mred\x1b]0;title\x07 \u202egnp\u200b\r\n\ttab"


def hello(**facts: object) -> wire.Hello:
    request = wire.encode(wire.HelloRequest(protocol=wire.PROTOCOL, host="h"))
    answer = fake_board("pi").agent._hello(request)
    known = msgspec.structs.replace(answer.fingerprint, **facts)
    return msgspec.structs.replace(answer, fingerprint=known)


def connected(**facts: object) -> BoardConnected:
    return BoardConnected("pi", hello(**facts), MOMENT)


def poll(phase: wire.Phase, **more: object) -> TrialProgress:
    found = wire.Poll(
        phase=phase, samples_done=5, images_done=2, recent_p50_ns=4_000_000, elapsed_ns=1,
        readings=(), next_cursor=0,
    )  # fmt: skip
    return TrialProgress("pi", TRIAL, msgspec.structs.replace(found, **more))


def ended(
    state: wire.EndState, failure: str | None = None, *, short: bool = False, samples: int = 3
) -> TrialEnded:
    outcome = wire.Outcome(
        trial_id=TRIAL.trial_id, state=state, short=short, load_ns=None, peak_rss_bytes=None,
        failure=None if failure is None else wire.Failure(wire.FailureKind.MODEL_RUN, failure),
        runtime_version=None, runtime_settings={}, inputs_kind=None, sources=hello().sources,
        evaluation=None, started_monotonic_ns=0, first_call_monotonic_ns=None,
        ended_monotonic_ns=1, parts={},
    )  # fmt: skip
    latency = array("Q", [9_000_000] + [2_000_000] * samples)
    found = wire.Samples((1, 0, samples), latency, array("Q", [0] * len(latency)))
    spec = wire.TrialSpec(
        trial_id=TRIAL.trial_id, run_id="r", artifact=wire.ArtifactRef("0" * 64, 1, "onnx"),
        options=TRIAL.options, scenario=TRIAL.scenario, inputs=wire.Inputs(), deadline_ns=1,
    )  # fmt: skip
    return TrialEnded(
        "pi", TRIAL, spec, 1, outcome, found if samples else None, (), None,
        GateResult(None, 0.0, None), MOMENT, MOMENT,
    )  # fmt: skip


def after(*events: Event) -> tuple[BoardProgress, list[str | None]]:
    """The board after these events, and the line that each of them added."""
    run = RunProgress.of(["pi"])
    return run.boards["pi"], [run.fold(event) for event in events]


def test_before_anything() -> None:
    """A run that has not begun waits for all its boards."""
    run = RunProgress.of(["a", "b"])
    assert [board.state for board in run.boards.values()] == ["waiting", "waiting"]
    assert (run.stage, list(run.log)) == ("connecting", [])


def test_planned_counts() -> None:
    """The plan says how many trials each board has, and that measuring begins."""
    run = RunProgress.of(["a", "b"])
    run.plan({"a": 7})
    assert (run.boards["a"].planned, run.boards["b"].planned, run.stage) == (7, 0, "measuring")


def test_connecting() -> None:
    """The first try is silent, every further one is told."""
    board, lines = after(BoardConnecting("pi", 1), BoardConnecting("pi", 2))
    assert board.state == "connecting"
    assert lines == [None, "pi: connecting again (attempt 2)"]


def test_connected() -> None:
    """A board that answers says what it is, in one line."""
    board, (line,) = after(connected(emulated=False, board_model="Raspberry Pi 5", python="3.11.2"))
    assert (board.state, board.model, board.emulated) == ("ready", "Raspberry Pi 5", False)
    assert line is not None
    for part in ("pi: ready: Raspberry Pi 5", "aarch64-dotprod", "4 cores", "Python 3.11.2"):
        assert part in line
    assert "EMULATED" not in line


def test_emulated() -> None:
    """An emulated board is marked as such."""
    board, (line,) = after(connected(emulated=True))
    assert board.emulated
    assert line is not None
    assert line.endswith("EMULATED")


def test_a_board_without_a_name() -> None:
    """A board that does not know its model is called by its processor, or by its machine type."""
    board, _ = after(connected(board_model=None, cpu_model="Cortex-A53"))
    assert board.model == "Cortex-A53"
    board, _ = after(connected(board_model=None, cpu_model=None, machine="aarch64"))
    assert board.model == "aarch64"


def test_runtime_is_missing() -> None:
    """A board without onnxruntime is no reason to fail here."""
    _, (line,) = after(connected(packages={}))
    assert line is not None
    assert "onnxruntime missing" in line


def test_pushing() -> None:
    """A push shows its share, and one line at its end."""
    board, lines = after(
        PushProgress("pi", 3, 2, 0, 4 << 20), PushProgress("pi", 3, 2, 1 << 20, 4 << 20)
    )
    assert (board.state, board.phase, lines) == ("pushing", "25 %", [None, None])
    board, lines = after(PushProgress("pi", 3, 2, 4 << 20, 4 << 20))
    assert (board.phase, lines) == ("", ["pi: 2 files pushed, 4.0 MiB"])


def test_nothing_to_push() -> None:
    """Files that are there already are told once."""
    assert after(PushProgress("pi", 3, 0, 0, 0))[1] == ["pi: all 3 files are on the board already"]


def test_cooling() -> None:
    """A board that cools down shows its limit and its temperature."""
    board, lines = after(GateWaiting("pi", 71.5, 60.0, 2.0), GateWaiting("pi", 70.0, 60.0, 4.0))
    assert (board.state, board.phase, list(board.temps_c)) == ("cooling", "to 60 °C", [71.5, 70.0])
    assert lines == [None, None]


def test_a_trial() -> None:
    """A trial shows its variant, phase, counts and recent median as the board reports them."""
    reading = fake_board("pi").agent._telemetry()
    blind = msgspec.structs.replace(reading, temp_c=None)
    board, lines = after(
        TrialStarted("pi", dataclasses.replace(TRIAL, evaluation_images=9), 1),
        poll("sample", readings=(reading, blind)),
    )
    assert (board.state, board.variant, board.phase) == ("measuring", "tiny/fp32", "sample")
    assert (board.samples, board.samples_wanted) == (5, TRIAL.scenario.min_samples)
    assert (board.images, board.images_wanted) == (2, 9)
    assert (board.recent_p50_ns, list(board.temps_c)) == (4_000_000, [45.0])
    assert lines == [None, None]


def test_a_new_trial_begins_at_nothing() -> None:
    """Figures of the trial before do not stand beside the next one."""
    board, _ = after(poll("sample"), TrialStarted("pi", TRIAL, 1))
    assert (board.samples, board.images, board.recent_p50_ns) == (0, 0, None)


def test_measuring_again_after_a_broken_line() -> None:
    """A trial that is followed again after a renewed contact is shown as measuring."""
    board, _ = after(
        TrialStarted("pi", TRIAL, 1), BoardConnecting("pi", 2), connected(), poll("sample")
    )
    assert board.state == "measuring"


def test_finished_trial() -> None:
    """A finished trial counts, with samples and median of its timed part in a line."""
    board, (line,) = after(ended("finished"))
    assert (board.ended, board.failed) == (1, 0)
    assert line == "pi: tiny/fp32 block 1 finished, 3 samples, p50 2.00 ms"


def test_short_trial() -> None:
    """A trial that its time cap ended says so."""
    assert "(short)" in str(after(ended("finished", short=True))[1])


def test_emulated_boards_show_no_time() -> None:
    """No line shows a time of an emulated board."""
    _, lines = after(connected(emulated=True), ended("finished"))
    assert lines[1] == "pi: tiny/fp32 block 1 finished, 3 samples"


def test_without_samples() -> None:
    """A trial without samples is no reason to fail here."""
    assert "0 samples" in str(after(ended("finished", samples=0))[1])


def test_failed_trial() -> None:
    """A failed trial counts as ended and as failed, with its reason."""
    board, lines = after(ended("failed", "unknown operator"))
    assert (board.ended, board.failed) == (1, 1)
    assert lines == ["pi: tiny/fp32 block 1 failed: unknown operator"]
    assert "no reason given" in str(after(ended("failed"))[1])


def test_interrupted_trial() -> None:
    """A trial that was cut short is measured again and so has not ended."""
    board, _ = after(ended("interrupted", "power was lost"))
    assert (board.ended, board.failed) == (0, 1)


def test_skipped_trial() -> None:
    """A skipped trial counts as ended, with the reason."""
    board, lines = after(
        TrialSkipped("pi", dataclasses.replace(TRIAL, block=2), "it failed before")
    )
    assert (board.ended, board.failed) == (1, 1)
    assert lines == ["pi: tiny/fp32 block 3 skipped: it failed before"]


def test_board_failed_and_done() -> None:
    """A board's end is its last state; a failure keeps its reason."""
    board, lines = after(poll("sample"), BoardFailed("pi", BoardUnreachable("no answer", "pi")))
    assert (board.state, board.error, board.phase) == ("failed", "pi: no answer", "")
    assert lines[1] == "pi: FAILED: pi: no answer"
    board, lines = after(poll("sample"), BoardDone("pi"))
    assert (board.state, board.phase, board.recent_p50_ns, lines[1]) == ("done", "", None, None)


@pytest.mark.parametrize(
    "event",
    [
        connected(board_model=HOSTILE, python=HOSTILE, packages={"onnxruntime": HOSTILE}),
        BoardFailed("pi", BoardUnreachable(HOSTILE, "pi")),
        ended("failed", HOSTILE),
        TrialSkipped("pi", TRIAL, HOSTILE),
        TrialStarted("pi", dataclasses.replace(TRIAL, model=HOSTILE, recipe=HOSTILE), 1),
    ],
)
def test_hostile_words(event: Event) -> None:
    """Whatever a board or a file says, nothing of it can act on a terminal."""
    board, lines = after(event)
    shown = [board.model, board.error, board.variant, board.phase, *filter(None, lines)]
    assert any("red" in text for text in shown)
    assert all(text.isprintable() for text in shown)


def test_notes() -> None:
    """A line of its own is kept and made safe; only so many are kept."""
    run = RunProgress.of([])
    for number in range(500):
        run.note(f"line {number}\x1b[2J")
    assert run.log[-1] == "line 499\\x1b[2J"
    assert len(run.log) == 200


def test_variants() -> None:
    """A variant is model and recipe in one word."""
    assert variant_of(TrialStarted("pi", TRIAL, 1)) == "tiny/fp32"
