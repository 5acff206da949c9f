"""The plan of a run: every trial of every board, in order. Nothing here does I/O."""

from __future__ import annotations

import hashlib
import itertools
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from agent.wire import Fingerprint, RuntimeOptions, Scenario
from orchestrator import profiles
from orchestrator.experiment import Experiment
from orchestrator.inventory import BoardEntry
from orchestrator.isa import Isa

_NS_PER_S: Final = 1_000_000_000

START_ALLOWANCE_S: Final = 120.0
"""A deadline's share for starting the worker and loading a model from a slow SD card."""
SLOWEST_INFERENCE_S: Final = 20.0
"""A deadline's share for each warm-up inference: the original YOLOv3 takes 12.5 s on a 3B+."""
END_ALLOWANCE_S: Final = 30.0
"""A deadline's share for writing the journal."""

ASSUMED_LATENCY_NS: Final = 100_000_000
ASSUMED_START_S: Final = 3.0
ASSUMED_IMAGE_NS: Final = 20_000_000
ASSUMPTIONS: Final = (
    f"{ASSUMED_START_S:g} s to start and load a trial, "
    f"{ASSUMED_LATENCY_NS / 1e6:g} ms an inference where none has been measured, "
    f"{ASSUMED_IMAGE_NS / 1e6:g} ms more for each scored image; "
    "without builds, transfers and cool-down"
)
"""What `estimate_seconds` takes for granted, in words."""


@dataclass(frozen=True)
class RunRequest:
    """One invocation of `run`, as the command line gave it; None means 'not given'."""

    run_id: str
    seed: int
    boards: str
    experiment: str | None = None
    model: str | None = None
    recipes: tuple[str, ...] = ()
    data: str | None = None
    calibration: str | None = None
    shapes: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    imgsz: int | None = None
    profile: str | None = None
    threads: int | None = None
    scale: str | None = None
    build_on: str | None = None


@dataclass(frozen=True)
class BoardFacts:
    """What a plan needs to know of a board; `threads` is the inventory's wish."""

    isa: Isa
    cpu_count: int
    memory_bytes: int | None = None
    threads: int | None = None


@dataclass(frozen=True)
class PlannedTrial:
    """One trial to come. `order` counts a board's trials from 0, `block` its blocks from 0.

    `evaluation_images` is 0 where the trial does not evaluate.
    """

    trial_id: str
    board: str
    block: int
    order: int
    model: str
    recipe: str
    scenario: Scenario
    evaluate: bool
    options: RuntimeOptions
    evaluation_images: int
    evaluation_cap_ns: int
    deadline_ns: int


@dataclass(frozen=True)
class Plan:
    """The trials of each board, in the order in which they are measured."""

    run_id: str
    seed: int
    boards: Mapping[str, tuple[PlannedTrial, ...]]

    @property
    def trials(self) -> tuple[PlannedTrial, ...]:
        """The trials of all boards, board after board."""
        return tuple(itertools.chain.from_iterable(self.boards.values()))


def facts_of(fingerprint: Fingerprint, entry: BoardEntry) -> BoardFacts:
    """The facts of a board that has said what it is."""
    return BoardFacts(
        fingerprint.isa, fingerprint.cpu_count, fingerprint.memory_bytes, entry.threads
    )


def make_plan(request: RunRequest, experiment: Experiment, facts: Mapping[str, BoardFacts]) -> Plan:
    """The plan of a run; the same arguments always give the same plan.

    Each block of a board holds every (model, recipe) once, in a random order that depends on
    the seed, the board's name and the block alone: another board changes nothing. Accuracy is
    evaluated in the first block only, for it does not vary.
    """
    return Plan(
        request.run_id,
        request.seed,
        {board: _board_trials(request, experiment, board, known) for board, known in facts.items()},
    )


def trial_id(run_id: str, *, board: str, block: int, model: str, recipe: str, scenario: str) -> str:
    """Name of a trial: 32 hex digits of the SHA-256 of the arguments as a JSON list."""
    return _digest(run_id, board, block, model, recipe, scenario)[:32]


def deadline_ns(scenario: Scenario, evaluation_cap_ns: int) -> int:
    """Longest time a trial may take from its start until its journal is complete.

    The shares are: START_ALLOWANCE_S; SLOWEST_INFERENCE_S for the cold inference, for each
    warm-up inference and for the one that outlasts sampling's cap; the warm-up's minimum; the
    caps of sampling and of evaluation (and one image that outlasts it); END_ALLOWANCE_S.
    """
    inferences = scenario.warmup_min_samples + 3
    fixed_s = START_ALLOWANCE_S + SLOWEST_INFERENCE_S * inferences + END_ALLOWANCE_S
    return (
        round(fixed_s * _NS_PER_S)
        + scenario.warmup_min_duration_ns
        + scenario.max_duration_ns
        + evaluation_cap_ns
    )


def estimate_seconds(
    trials: Sequence[PlannedTrial], known_latency_ns: Mapping[tuple[str, str], int] | None = None
) -> float:
    """How long the trials of one board will take, under ASSUMPTIONS.

    `known_latency_ns` has measured medians by (model, recipe).
    """
    known = known_latency_ns or {}
    return sum(
        _trial_seconds(trial, known.get((trial.model, trial.recipe), ASSUMED_LATENCY_NS))
        for trial in trials
    )


def _trial_seconds(trial: PlannedTrial, latency_ns: int) -> float:
    scenario = trial.scenario
    warmup_ns = max(scenario.warmup_min_duration_ns, scenario.warmup_min_samples * latency_ns)
    wanted_ns = max(scenario.min_duration_ns, scenario.min_samples * latency_ns)
    sample_ns = min(wanted_ns, scenario.max_duration_ns)
    images_ns = trial.evaluation_images * (latency_ns + ASSUMED_IMAGE_NS)
    evaluate_ns = min(images_ns, trial.evaluation_cap_ns)
    return ASSUMED_START_S + (latency_ns + warmup_ns + sample_ns + evaluate_ns) / _NS_PER_S


def _board_trials(
    request: RunRequest, experiment: Experiment, board: str, facts: BoardFacts
) -> tuple[PlannedTrial, ...]:
    variants = list(experiment.variants())
    slots = [
        _Slot(board, block, order, model, recipe)
        for block in range(experiment.profile.blocks)
        for order, (model, recipe) in enumerate(
            _shuffled(variants, request.seed, board, block), start=block * len(variants)
        )
    ]
    options = _options(request, experiment, facts)
    return tuple(_trial(request.run_id, experiment, options, slot) for slot in slots)


@dataclass(frozen=True)
class _Slot:
    """A place in a board's order and what stands there."""

    board: str
    block: int
    order: int
    model: str
    recipe: str


def _trial(
    run_id: str, experiment: Experiment, options: RuntimeOptions, slot: _Slot
) -> PlannedTrial:
    scenario = profiles.scenario(experiment.profile, experiment.scenario.duration_s)
    evaluate = slot.block == 0 and experiment.data is not None
    images = experiment.profile.accuracy_images if evaluate else 0
    cap_ns = round(experiment.accuracy_cap_s * _NS_PER_S) if images else 0
    return PlannedTrial(
        trial_id=trial_id(
            run_id,
            board=slot.board,
            block=slot.block,
            model=slot.model,
            recipe=slot.recipe,
            scenario=scenario.name,
        ),
        board=slot.board,
        block=slot.block,
        order=slot.order,
        model=slot.model,
        recipe=slot.recipe,
        scenario=scenario,
        evaluate=images > 0,
        options=options,
        evaluation_images=images,
        evaluation_cap_ns=cap_ns,
        deadline_ns=deadline_ns(scenario, cap_ns),
    )


def _options(request: RunRequest, experiment: Experiment, facts: BoardFacts) -> RuntimeOptions:
    """The command line's threads win over the experiment's, those over the inventory's."""
    wanted = experiment.options
    threads = request.threads or wanted.threads or facts.threads or facts.cpu_count
    return RuntimeOptions(
        intra_op_num_threads=threads,
        graph_optimization_level=wanted.graph_optimization_level,
        enable_cpu_mem_arena=wanted.enable_cpu_mem_arena,
        enable_mem_pattern=wanted.enable_mem_pattern,
        allow_spinning=wanted.allow_spinning,
    )


def _shuffled(
    variants: Sequence[tuple[str, str]], seed: int, board: str, block: int
) -> list[tuple[str, str]]:
    """A random permutation: sorted by a digest, so that no Python version changes it."""
    return sorted(variants, key=lambda variant: _digest(seed, board, block, *variant))


def _digest(*parts: str | int) -> str:
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()
