import pytest

from agent.report import Report, crash, printable, replay
from agent.wire import EvaluationOutcome, FailureKind
from agent.worker_events import Ended, Evaluated, Loaded, PhaseStarted, event_line


def death(returncode, **kwargs):
    return crash(returncode, **{"oom_kills": 0, "available_bytes": None, "stderr": b"", **kwargs})


def test_events_add_up():
    """The report holds all that a worker said."""
    events = [
        PhaseStarted("load", 1),
        Loaded(5, "1.2", {"x": "y"}, "images"),
        PhaseStarted("evaluate", 2),
        Evaluated(3, 4, capped=True),
        Ended(short=True, calls=8, peak_rss_bytes=9),
    ]
    report = replay(map(event_line, events))
    assert report.phase == "evaluate"
    assert (report.load_ns, report.runtime_version, report.inputs_kind) == (5, "1.2", "images")
    assert dict(report.settings) == {"x": "y"}
    assert report.evaluation == EvaluationOutcome(3, 4, capped=True)
    assert (report.complete, report.short, report.peak_rss_bytes) == (True, True, 9)
    assert report.calls == 8


def test_the_first_call_is_at_the_start_of_the_cold_phase():
    """Only the phase of the first call says when it was, and without one it is not known."""
    events = [PhaseStarted("load", 1), PhaseStarted("cold", 7), PhaseStarted("sample", 9)]
    assert replay(map(event_line, events)).first_call_ns == 7
    assert replay(map(event_line, events[:1])).first_call_ns is None


def test_torn_lines_are_skipped():
    """A power cut in the middle of a line costs that line only."""
    whole = event_line(PhaseStarted("sample", 1))
    assert replay([b"\0\0\0", whole, whole[:9], b"{}", b""]) == Report(phase="sample")


def test_out_of_memory_is_named():
    """A kill is for want of memory only if the kernel counted one meanwhile."""
    killed = death(-9, oom_kills=1, available_bytes=1234)
    assert killed.kind is FailureKind.OUT_OF_MEMORY
    assert "1234" in killed.message
    other = death(-9)
    assert other.kind is FailureKind.WORKER_KILLED
    assert "SIGKILL" in other.message


def test_illegal_instruction_is_named():
    """Signal 4 is said in words that point to the library."""
    failure = death(-4, stderr=b"loading")
    assert failure.kind is FailureKind.WORKER_KILLED
    assert "illegal instruction on this CPU" in failure.message
    assert "loading" in failure.message


@pytest.mark.parametrize(("code", "words"), [(-11, "signal 11 (SIGSEGV)"), (-64, "signal 64")])
def test_other_signals_are_named(code, words):
    """Any other signal is named, also one without a name of its own."""
    assert words in death(code).message


@pytest.mark.parametrize("code", [0, 1, 70])
def test_exit_without_result(code):
    """An exit code without a result is a fault of ours, and the code is said."""
    failure = death(code)
    assert failure.kind is FailureKind.INTERNAL
    assert f"exit code {code}" in failure.message


def test_last_words_are_harmless():
    """What a dead process printed cannot move a terminal's cursor, and is kept short."""
    shown = printable(b"x" * 5000 + b"\nred \x1b[31m alert\x07\x00\xff\n\xe2\x80\xae end\n")
    assert shown.isprintable()
    assert "red ?[31m alert" in shown
    assert shown.endswith("end")
    assert len(shown) < 2100
