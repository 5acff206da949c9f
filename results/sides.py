"""Which trials a comparison is about, and what has to be known of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import TYPE_CHECKING, Any, Final, Self

import msgspec

from results.errors import QueryError, UnknownRun
from results.queries import latest_run
from results.stats import block_medians

if TYPE_CHECKING:
    from results.store import Store

_GROUP: Final = ("board", "model", "variant", "isa", "scenario", "threads", "artifact_sha256")


@dataclass(frozen=True)
class Selector:
    """Which trials are meant; what is None must be clear by itself. No run: the latest."""

    run: str | None = None
    board: str | None = None
    model: str | None = None
    variant: str | None = None
    isa: str | None = None
    scenario: str | None = None
    threads: int | None = None

    @classmethod
    def parse(cls, text: str) -> Self:
        """From `board=pi5,variant=int8_ptq`; raises QueryError."""
        known = [field.name for field in fields(cls)]
        values: dict[str, Any] = {}
        for part in filter(None, (piece.strip() for piece in text.split(","))):
            name, equals, value = (piece.strip() for piece in part.partition("="))
            if name not in known or not equals or not value or name in values:
                raise QueryError(
                    f"selector {text!r}: {part!r} is not one name=value of {', '.join(known)}"
                )
            values[name] = value
        if "threads" in values:
            if not values["threads"].isdecimal():
                raise QueryError(f"selector {text!r}: threads is a whole number")
            values["threads"] = int(values["threads"])
        return cls(**values)


@dataclass(frozen=True)
class Accuracy:
    """Accuracy of a side; figures are comparable only where `on` is equal."""

    map50: float | None
    map50_95: float | None
    dice: float | None
    iou: float | None
    on: str
    evaluation_no: int


@dataclass(frozen=True)
class Side:
    """A group of finished trials of one artifact on one board in one run.

    `blocks` are the median p50 (ms) by block; `throttled` the bits seen in any trial, None
    when the board cannot say.
    """

    run_id: str
    board: str
    board_model: str | None
    emulated: bool
    model: str
    variant: str
    isa: str
    scenario: str
    threads: int
    artifact_sha256: str
    runtime: str
    runtime_versions: tuple[str, ...]
    options: tuple[tuple[str, Any], ...]
    inputs: str
    trials: int
    short_trials: int
    unsteady_trials: int
    throttled: int | None
    blocks: Mapping[int, float]
    accuracy: Accuracy | None

    @property
    def key(self) -> tuple[object, ...]:
        """What makes it a group."""
        return (self.run_id, *(getattr(self, name) for name in _GROUP))

    @property
    def label(self) -> str:
        """The group in words."""
        return (
            f"{self.model}/{self.variant} on {self.board} ({self.isa}, {self.scenario}, "
            f"{self.threads} threads, run {self.run_id}, {self.trials} trials)"
        )


def load_side(store: Store, selector: Selector) -> Side:
    """The one group of finished trials that a selector means; raises UnknownRun."""
    run_id = selector.run or latest_run(store)
    rows = store.rows(
        """SELECT v.*, t.spec_json FROM v_trials v JOIN trials t ON t.trial_no = v.trial_no
           WHERE v.run_id = :run_id AND v.state = 'finished' AND v.n > 0
           ORDER BY v.trial_no""",
        run_id=run_id,
    )
    wanted = {k: v for k, v in asdict(selector).items() if k != "run" and v is not None}
    groups: dict[tuple[object, ...], list[Mapping[str, Any]]] = {}
    for row in rows:
        if all(row[name] == value for name, value in wanted.items()):
            groups.setdefault(tuple(row[name] for name in _GROUP), []).append(row)
    if len(groups) != 1:
        raise UnknownRun(_unclear(run_id, wanted, groups or {_key(row): [] for row in rows}))
    return _side(run_id, next(iter(groups.values())))


def _key(row: Mapping[str, Any]) -> tuple[object, ...]:
    return tuple(row[name] for name in _GROUP)


def _unclear(
    run_id: str, wanted: Mapping[str, object], groups: Mapping[tuple[object, ...], object]
) -> str:
    asked = ",".join(f"{name}={value}" for name, value in wanted.items()) or "no condition"
    if not groups:
        return f"run {run_id!r} has no finished trial; `orchestrator runs` lists the runs"
    there = "; ".join(
        ",".join(f"{name}={value}" for name, value in zip(_GROUP[:-1], group, strict=False))
        for group in list(groups)[:8]
    )
    return f"{asked} fits no single group of run {run_id!r}; it has: {there}"


def _side(run_id: str, rows: Sequence[Mapping[str, Any]]) -> Side:
    first = rows[0]
    spec = msgspec.json.decode(first["spec_json"])
    bits = [row["throttled"] for row in rows if row["throttled"] is not None]
    seen = 0
    for value in bits:
        seen |= value
    return Side(
        run_id=run_id,
        **{name: first[name] for name in (*_GROUP, "board_model")},
        emulated=bool(first["emulated"]),
        runtime=first["runtime"],
        runtime_versions=tuple(sorted({str(row["runtime_version"]) for row in rows})),
        options=tuple(sorted(spec["options"].items())),
        inputs=_inputs(first["inputs_kind"], spec["inputs"]),
        trials=len(rows),
        short_trials=sum(row["short"] for row in rows),
        unsteady_trials=sum(row["steady_from"] is None for row in rows),
        throttled=seen if bits else None,
        blocks=block_medians((row["block"], row["p50_ms"] or None) for row in rows),
        accuracy=_accuracy(rows),
    )


def _inputs(kind: str | None, inputs: Mapping[str, Any]) -> str:
    """What the loop was fed, in words: kind, size and any fixed shapes."""
    prep = inputs.get("prep")
    size = f" {prep['width']}x{prep['height']}" if prep else ""
    shapes = "".join(f" {name}={shape}" for name, shape in sorted(inputs["shapes"].items()))
    return f"{kind}{size}{shapes}"


def _accuracy(rows: Sequence[Mapping[str, Any]]) -> Accuracy | None:
    """A board's own figure before the host's, over most images, as in v_leaderboard."""
    scored = [row for row in rows if row["eval_set"] is not None]
    if not scored:
        return None
    row = max(
        scored, key=lambda row: (row["eval_place"] == "board", row["eval_images"], -row["trial_no"])
    )
    seed = "whole split" if row["eval_seed"] is None else f"seed {row['eval_seed']}"
    on = (
        f"{row['eval_set']}/{row['eval_split']}, {row['eval_images']} images ({seed}), "
        f"{row['evaluator']}"
    )
    return Accuracy(
        map50=row["map50"],
        map50_95=row["map50_95"],
        dice=row["dice"],
        iou=row["iou"],
        on=on,
        evaluation_no=row["evaluation_no"],
    )
