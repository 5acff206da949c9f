"""`run --dry-run`: every trial, what would be built and pushed, and how long it would take."""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from rich.console import Console
from rich.text import Text

from agent.wire import Scenario
from models import estimate
from models.build import find_cached
from models.estimate import Speed, Training
from models.steps.isa import host_isa
from models.store import ArtifactStore
from orchestrator import tables
from orchestrator.assign import requests
from orchestrator.dashboard import duration
from orchestrator.experiment import Experiment
from orchestrator.inventory import BoardEntry
from orchestrator.plan import (
    ASSUMPTIONS,
    BoardFacts,
    Plan,
    RunRequest,
    estimate_seconds,
    make_plan,
)
from orchestrator.prepare import Prepared
from orchestrator.tables import Column
from results.store import Store

UNSEEN = BoardFacts(isa="aarch64", cpu_count=4)
"""What a board that was never seen and has no `arch:` is taken for: a Raspberry Pi."""
_BYTES_PER_MB = 1e6
_PER_IMAGES = 1000


@dataclass(frozen=True)
class Memory:
    """What the database knows of one board; `origin` says where the facts come from."""

    facts: BoardFacts
    origin: str
    latency_ns: Mapping[tuple[str, str], int]
    """Median p50 by model and recipe, from finished trials of earlier runs."""


@dataclass(frozen=True)
class Foreseen:
    """A plan made without contacting any board."""

    plan: Plan
    past: Mapping[str, Memory]

    def seconds(self, board: str) -> float:
        """The estimate for one board."""
        return estimate_seconds(self.plan.boards[board], self.past[board].latency_ns)


def recall(
    store: Store | None, entries: Sequence[BoardEntry], models: Sequence[str]
) -> dict[str, Memory]:
    """The last fingerprint of each board and what was measured there."""
    return {
        entry.name: Memory(*_facts(store, entry), _latencies(store, entry.name, models))
        for entry in entries
    }


def _facts(store: Store | None, entry: BoardEntry) -> tuple[BoardFacts, str]:
    seen = store.rows(_LAST_FINGERPRINT, board=entry.name) if store is not None else []
    if seen:
        row = seen[0]
        facts = BoardFacts(row["isa"], row["cpu_count"], row["memory_bytes"], entry.threads)
        return facts, f"seen {row['hello_utc'][:16].replace('T', ' ')} UTC"
    if entry.kind == "local":
        isa = host_isa()
        return BoardFacts(isa, os.cpu_count() or 1, threads=entry.threads), "this machine"  # type: ignore[arg-type] # host_isa names the same sets
    if entry.arch is not None:
        return BoardFacts(entry.arch, UNSEEN.cpu_count, threads=entry.threads), "arch: in inventory"
    assumed = BoardFacts(UNSEEN.isa, UNSEEN.cpu_count, threads=entry.threads)
    return assumed, "never seen: assumed; `orchestrator boards check` finds out"


_LAST_FINGERPRINT = """
    SELECT f.isa, f.cpu_count, f.memory_bytes, b.hello_utc
    FROM boards b JOIN fingerprints f ON f.fingerprint_sha256 = b.fingerprint_sha256
    WHERE b.name = :board ORDER BY b.hello_utc DESC LIMIT 1"""

_LATENCIES = """
    SELECT model, recipe, p50_ms FROM v_trials
    WHERE board = :board AND state = 'finished' AND p50_ms IS NOT NULL
    ORDER BY started_utc"""


def _latencies(
    store: Store | None, board: str, models: Sequence[str]
) -> dict[tuple[str, str], int]:
    """The newest p50 of each variant."""
    rows = store.rows(_LATENCIES, board=board) if store is not None else []
    return {
        (row["model"], row["recipe"]): round(row["p50_ms"] * 1e6)
        for row in rows
        if row["model"] in models
    }


def foresee(
    request: RunRequest,
    experiment: Experiment,
    entries: Sequence[BoardEntry],
    past: Mapping[str, Memory],
) -> Foreseen:
    """The plan as it would be made if each board were what it was last; pure."""
    facts = {entry.name: past[entry.name].facts for entry in entries}
    return Foreseen(make_plan(request, experiment, facts), past)


def show(out: Console, foreseen: Foreseen, prepared: Prepared, store: ArtifactStore) -> None:
    """Print trials, builds, pushes and the estimate of each board."""
    _show_trials(out, foreseen, prepared)
    _show_builds(out, foreseen, prepared, store)
    _show_trainings(out, prepared, foreseen, store)
    _show_boards(out, foreseen)
    out.print(Text(f"The estimate assumes {ASSUMPTIONS}.", style="dim"), soft_wrap=True)
    if prepared.scored is not None:
        total = sum(file.size_bytes for file in prepared.scored.files.values())
        out.print(
            f"Each board gets {len(prepared.scored.files)} images "
            f"({total / _BYTES_PER_MB:.1f} MB) and its artifacts, unless it has them already."
        )
    if prepared.absent:
        out.print(
            "A run needs data of yours: name the folder with --data DIR. Until then the numbers "
            "of images are those that the study has published."
        )
    out.print(f"Seed {foreseen.plan.seed}: the same order again with --seed {foreseen.plan.seed}.")


def _show_trials(out: Console, foreseen: Foreseen, prepared: Prepared) -> None:
    runtimes = {
        trial.recipe: prepared.recipes[trial.recipe].runtime for trial in foreseen.plan.trials
    }
    several = len(set(runtimes.values())) > 1
    columns = [
        Column("board"),
        Column("trial", figures=True),
        Column("block", figures=True),
        Column("variant"),
        *([Column("runtime", spare=3)] if several else []),
        Column("samples", figures=True),
        Column("time s", figures=True),
        Column("threads", figures=True, spare=2),
        Column("images", figures=True, spare=1),
    ]
    rows = [
        [
            trial.board,
            str(trial.order + 1),
            str(trial.block + 1),
            f"{trial.model}/{trial.recipe}",
            *([runtimes[trial.recipe]] if several else []),
            f"≥ {trial.scenario.min_samples}",
            _sampling_time(trial.scenario),
            str(trial.options.intra_op_num_threads),
            str(trial.evaluation_images or tables.NONE),
        ]
        for trial in foreseen.plan.trials
    ]
    tables.show(out, columns, rows)


def _sampling_time(scenario: Scenario) -> str:
    """Shortest and longest time of sampling, in seconds; one figure where it is fixed."""
    least_s, most_s = scenario.min_duration_ns / 1e9, scenario.max_duration_ns / 1e9
    fixed = scenario.name == "sustained"
    return f"{most_s:g} (sustained)" if fixed else f"{least_s:g} … {most_s:g}"


def _show_builds(
    out: Console, foreseen: Foreseen, prepared: Prepared, store: ArtifactStore
) -> None:
    isas = [memory.facts.isa for memory in foreseen.past.values()]
    rows = []
    for (model, recipe, isa), request in requests(prepared, isas).items():
        cached = find_cached(request, store)
        size = tables.NONE if cached is None else f"{cached.size_bytes / _BYTES_PER_MB:.2f}"
        state = "to be built" if cached is None else "built before"
        rows.append([f"{model}/{recipe}", isa, state, size])
    columns = [Column("variant"), Column("for"), Column("artifact"), Column("MB", figures=True)]
    out.print()
    tables.show(out, columns, rows)


def _show_trainings(
    out: Console, prepared: Prepared, foreseen: Foreseen, store: ArtifactStore
) -> None:
    """What has to be learned first, and how long that takes on this machine."""
    isas = [memory.facts.isa for memory in foreseen.past.values()]
    asked = {f"{key[0]}/{key[1]}": one for key, one in requests(prepared, isas).items()}
    wanted = estimate.trainings(asked, store, prepared.training_images())
    if not wanted:
        return
    models = {training.model.name: training.model for training in wanted}
    speeds = {name: estimate.speed_of(model) for name, model in models.items()}
    columns = [
        Column("to be trained"),
        Column("step"),
        Column("epochs", figures=True),
        Column("images", figures=True),
        Column("time here (h:m:s)", figures=True),
    ]
    rows = [
        [
            training.label,
            training.step,
            f"{training.epochs:,}",
            tables.NONE if training.images is None else f"{training.images:,}",
            _time_of(training, speeds[training.model.name]),
        ]
        for training in wanted
    ]
    out.print()
    tables.show(out, columns, rows)
    known_s = [
        speed.seconds * training.seen
        for training in wanted
        if (speed := speeds[training.model.name]) is not None and training.seen is not None
    ]
    devices = {speed.device for speed in speeds.values() if speed is not None}
    out.print(Text(_sum_of(known_s, len(wanted), devices), style="dim"), soft_wrap=True)


def _sum_of(known_s: Sequence[float], count: int, devices: Collection[str]) -> str:
    """All trainings together, as far as their time is known."""
    if not known_s:
        return "How long training takes in all cannot be told. --build-on does it elsewhere."
    words = "measured just now"
    if len(known_s) < count:
        words = f"without {count - len(known_s)} that cannot be told in full"
    return (
        f"Training takes about {duration(sum(known_s))} on this "
        f"{'GPU' if 'cuda' in devices else 'processor'} ({words}; forward and backward passes "
        "alone). --build-on does it elsewhere."
    )


def _time_of(training: Training, speed: Speed | None) -> str:
    """How long it takes, by what an image takes; for a thousand where their number is unknown."""
    if speed is None:
        return "unknown"
    if training.seen is None:
        time_s = speed.seconds * training.epochs * _PER_IMAGES
        return f"{duration(time_s)} per {_PER_IMAGES:,} images"
    return duration(speed.seconds * training.seen)


def _show_boards(out: Console, foreseen: Foreseen) -> None:
    columns = [
        Column("board"),
        Column("instruction set"),
        Column("trials", figures=True),
        Column("estimate (h:m:s)", figures=True),
        Column("known from"),
    ]
    rows = [
        [
            board,
            foreseen.past[board].facts.isa,
            str(len(trials)),
            duration(foreseen.seconds(board)),
            foreseen.past[board].origin,
        ]
        for board, trials in foreseen.plan.boards.items()
    ]
    out.print()
    tables.show(out, columns, rows)
    for board, trials in foreseen.plan.boards.items():
        variants = {(trial.model, trial.recipe) for trial in trials}
        new = len(variants - foreseen.past[board].latency_ns.keys())
        if new:
            words = f"{board}: {new} of {len(variants)} variants were never measured there, so the"
            out.print(
                Text(f"{words} estimate is a guess; large networks take longer."), soft_wrap=True
            )
