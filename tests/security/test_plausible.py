"""What a board says of one trial, and whether it can be true."""

from __future__ import annotations

import dataclasses
from array import array

import msgspec
import pytest
from support.agentkit import trial_spec

from agent import wire
from orchestrator.boards.fake import FakeAgent
from orchestrator.clock import SystemClock
from orchestrator.errors import BoardFailure
from orchestrator.fetch import Journal
from orchestrator.plausible import LONGEST_NS, SLACK_NS, require_asked_for, require_plausible

LASTED_NS = 10**9


def journal(**changes: object) -> Journal:
    """A finished trial of a second, two of whose milliseconds were inferences."""
    outcome = wire.Outcome(
        trial_id="t", state="finished", failure=None, short=False, load_ns=1, peak_rss_bytes=1,
        runtime_version="1", runtime_settings={}, inputs_kind="synthetic",
        sources=wire.Sources(None, None, None, None), evaluation=None,
        started_monotonic_ns=5, first_call_monotonic_ns=6,
        ended_monotonic_ns=5 + LASTED_NS, parts={},
    )  # fmt: skip
    samples = wire.Samples((1, 0, 1), array("Q", [10**6] * 2), array("Q", [0] * 2))
    told = Journal(outcome, samples, (), None)
    own = {name for name in changes if name in ("samples", "readings")}
    told = dataclasses.replace(told, **{name: changes.pop(name) for name in own})
    return dataclasses.replace(told, outcome=msgspec.structs.replace(outcome, **changes))


def reading(t_ns: int) -> wire.Reading:
    return msgspec.structs.replace(FakeAgent(SystemClock())._telemetry(), t_ns=t_ns)


def samples(*latency_ns: int) -> wire.Samples:
    return wire.Samples(
        (1, 0, len(latency_ns) - 1), array("Q", latency_ns), array("Q", [0] * len(latency_ns))
    )


def test_the_truth_is_believed() -> None:
    """An honest trial passes, also one that was cut before its first sample."""
    require_plausible(journal(), "pi")
    require_plausible(journal(state="interrupted", samples=None), "pi")
    require_plausible(journal(samples=samples(1, LASTED_NS + SLACK_NS - 1)), "pi")


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"ended_monotonic_ns": 4}, "it lasted -1 ns"),
        ({"ended_monotonic_ns": LONGEST_NS + 6}, "it lasted"),
        ({"first_call_monotonic_ns": 4}, "first call began -1 ns"),
        ({"first_call_monotonic_ns": 6 + LASTED_NS + SLACK_NS}, "first call began"),
        ({"samples": None}, "finished without a sample"),
        ({"samples": samples(1)}, "finished without a sample"),
        ({"samples": samples(1, 0)}, "took no time"),
        ({"samples": samples(1, LASTED_NS + SLACK_NS)}, "its samples took"),
        ({"samples": samples(2**64 - 1, 2**64 - 1), "state": "interrupted"}, "its samples took"),
        ({"readings": (reading(1), reading(LONGEST_NS + 2))}, "its readings span"),
        ({"failure": wire.Failure(wire.FailureKind.INTERNAL, "")}, "finished and failed"),
    ],
)
def test_what_cannot_be_true(changes: dict[str, object], why: str) -> None:
    """A trial that contradicts itself is refused with the contradiction and its board."""
    with pytest.raises(BoardFailure, match=rf"pi: trial t cannot be true: .*{why}"):
        require_plausible(journal(**changes), "pi")


@pytest.mark.parametrize(
    "reported",
    [
        ["i1"],
        ["i0", "i2"],
        ["i0", "i0"],
        ["i0", "i1", "i2", "i2"],
        ["i0", "i1", "i2", "never asked for"],
        ["\x1b[2J"],
    ],
)
def test_images_that_were_not_asked_for(reported: list[str]) -> None:
    """Left-out, repeated and invented images are refused: a board cannot choose what counts."""
    spec = trial_spec(images=["a" * 64, "b" * 64, "c" * 64])
    found = [wire.ImageDetections(image_id, ()) for image_id in reported]
    with pytest.raises(BoardFailure, match="not scored"):
        require_asked_for(spec, found)


def test_images_that_were_asked_for() -> None:
    """All images in order pass, and so do the first ones of an evaluation that was cut short."""
    spec = trial_spec(images=["a" * 64, "b" * 64])
    for count in range(3):
        found = [wire.ImageDetections(f"i{n}", ()) for n in range(count)]
        require_asked_for(spec, found)
    with pytest.raises(BoardFailure):
        require_asked_for(trial_spec(), [wire.ImageDetections("i0", ())])


@pytest.mark.parametrize(
    "box", ["[NaN,0,1,1,1,0]", "[1e999,0,1,1,1,0]", "[1e300,0,1,1,1,0]", "[0,0,1,1,1,-1]"]
)
def test_boxes_that_are_none(box: str) -> None:
    """A box that is not a number, endless or of a negative class is no detection."""
    with pytest.raises(wire.WireError):
        wire.decode(f'{{"image_id":"i","detections":[{box}]}}', wire.ImageDetections)
