"""What is handed in to be stored: frozen records, free of databases and screens.

Times of day are aware `datetime` values (the host's clock); `*_monotonic_ns` are the board's
own monotonic clock and are never compared with another machine's. None means 'not known' or
'this board cannot say', never zero.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Literal

from agent.wire import Fingerprint, ModelFormat, Outcome, Reading, Samples, Sources, TrialSpec
from results.matches import ImageMatches

RunState = Literal["running", "finished", "interrupted", "partial", "failed"]
EndOfRun = Literal["finished", "interrupted", "partial", "failed"]
Place = Literal["board", "host"]
Fact = str | int | float | bool | None


class Recorded(enum.Enum):
    """What became of a record that was handed in."""

    STORED = "stored"
    ALREADY = "already stored"


@dataclass(frozen=True)
class RunRecord:
    """One invocation. `experiment_json` is the whole request, enough to run it again."""

    run_id: str
    started_utc: datetime
    experiment: str
    experiment_json: str
    profile: str
    seed: int
    host: Mapping[str, Fact]
    software_version: str


@dataclass(frozen=True)
class BoardRecord:
    """A board as one run met it.

    `hello_monotonic_ns` (board) and `hello_utc` (host) were read at the same moment, give or
    take the round trip; `clock_offset_ns` is host UTC minus board monotonic, None if unknown.
    """

    name: str
    fingerprint: Fingerprint
    sources: Sources
    clock_offset_ns: int | None
    hello_monotonic_ns: int
    hello_utc: datetime


@dataclass(frozen=True)
class ArtifactRecord:
    """An immutable model file. The labels say what it was first made as."""

    sha256: str
    size_bytes: int
    format: ModelFormat
    model: str
    variant: str
    recipe: str
    isa: str
    parent_sha256: str | None
    manifest_json: str


@dataclass(frozen=True)
class ImageScoreRecord:
    """One image: its Dice, or of a detection what was right in it; exactly one of the two."""

    image_id: str
    dice: float | None = None
    matches: ImageMatches | None = None


@dataclass(frozen=True)
class EvaluationRecord:
    """Accuracy on a named set. `where` is the machine that ran the inference.

    `images` is the number really scored; `map50` and `map50_95` are 0..1, None when the set
    allows no figure, as are `dice` and `iou`, which only a segmentation has. `subset_seed` is
    None when the whole split was used. `per_image` is in the order of the set.
    """

    set_name: str
    split: str
    images: int
    subset_seed: int | None
    map50: float | None
    map50_95: float | None
    where: Place
    evaluator: str
    evaluator_version: str
    per_class: Mapping[str, float] = field(default_factory=dict)
    dice: float | None = None
    iou: float | None = None
    per_image: Sequence[ImageScoreRecord] = ()


@dataclass(frozen=True)
class TrialRecord:
    """One attempt at one trial on one board, with everything that it measured.

    `plan_order` is its place in the plan of its board, `block` the randomised block it
    belongs to; both count from 0. `attempt` counts from 1.
    """

    spec: TrialSpec
    board: str
    model: str
    variant: str
    recipe: str
    isa: str
    block: int
    plan_order: int
    scenario: str
    outcome: Outcome
    samples: Samples | None
    readings: Sequence[Reading]
    evaluation: EvaluationRecord | None
    attempt: int
    started_utc: datetime
    ended_utc: datetime
