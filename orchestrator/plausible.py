"""Whether what a board reports of a trial can be true; what cannot is never stored. Pure.

A board may lie within these bounds and nobody could tell; beyond them it is broken or hostile.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from agent import wire
from orchestrator.errors import BoardFailure
from orchestrator.fetch import Journal

SLACK_NS: Final = 60_000_000_000
"""A trial's end is taken from its last reading where the agent was gone."""

LONGEST_NS: Final = 30 * 24 * 3600 * 1_000_000_000
"""No trial lasts longer: an agent accepts deadlines of a week."""


def require_plausible(journal: Journal, board: str) -> None:
    """Raise BoardFailure when samples, readings and outcome of a trial contradict each other."""
    problem = _problem(journal)
    if problem is not None:
        raise BoardFailure(
            f"trial {journal.outcome.trial_id} cannot be true: {problem}; it is not stored and "
            f"still on the board",
            board,
        )


def _problem(journal: Journal) -> str | None:
    outcome, samples = journal.outcome, journal.samples
    lasted_ns = outcome.ended_monotonic_ns - outcome.started_monotonic_ns
    finished = outcome.state == "finished"
    if not 0 <= lasted_ns <= LONGEST_NS:
        return f"it lasted {lasted_ns} ns"
    if finished and outcome.failure is not None:
        return "it finished and failed"
    if finished and (samples is None or not samples.counts[2]):
        return "it finished without a sample"
    within_ns = lasted_ns + SLACK_NS if finished else LONGEST_NS
    return _problem_of_samples(journal, within_ns) or _problem_of_readings(journal.readings)


def _problem_of_samples(journal: Journal, within_ns: int) -> str | None:
    outcome, samples = journal.outcome, journal.samples
    first_ns = outcome.first_call_monotonic_ns
    if first_ns is not None and not 0 <= first_ns - outcome.started_monotonic_ns <= within_ns:
        return f"its first call began {first_ns - outcome.started_monotonic_ns} ns after its start"
    if samples is None:
        return None
    if not all(samples.latency_ns):
        return "an inference took no time"
    spent_ns = sum(samples.latency_ns) + sum(samples.gap_ns)
    if spent_ns > within_ns:
        lasted_ns = outcome.ended_monotonic_ns - outcome.started_monotonic_ns
        return f"its samples took {spent_ns} ns of the {lasted_ns} ns that it lasted"
    return None


def _problem_of_readings(readings: Sequence[wire.Reading]) -> str | None:
    times = [reading.t_ns for reading in readings]
    if times and max(times) - min(times) > LONGEST_NS:
        return f"its readings span {max(times) - min(times)} ns"
    return None


def require_asked_for(
    spec: wire.TrialSpec, found: Sequence[wire.ImageDetections] | Sequence[wire.ImageMask]
) -> None:
    """Raise BoardFailure unless this was found in the trial's images, in their order.

    A board that left out images in between could choose those on which it is right.
    """
    images = spec.evaluation.images if spec.evaluation is not None else ()
    asked = [image.image_id for image in images]
    reported = [image.image_id for image in found]
    if reported != asked[: len(reported)]:
        wrong = next(
            (n for n, pair in enumerate(zip(reported, asked, strict=False)) if pair[0] != pair[1]),
            len(asked),
        )
        raise BoardFailure(
            f"image {reported[wrong]!r} was reported as number {wrong + 1}, where "
            f"the board was asked for {asked[wrong] if wrong < len(asked) else 'no more'!r}; "
            f"what it found is not scored"
        )
