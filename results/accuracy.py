"""How much more accurate A is than B on the same images, with an interval where there is one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from results.bootstrap import (
    MIN_IMAGES,
    Figures,
    Interval,
    dice_figures,
    paired_intervals,
    precision_figures,
)
from results.matches import decoded
from results.sides import Accuracy

if TYPE_CHECKING:
    from results.store import Store

FIGURES: Final = {"map50_95": "mAP50-95", "map50": "mAP50", "dice": "Dice", "iou": "IoU"}
"""By the names of their columns; an interval of IoU is not computed."""

_BLOCKS: Final = {"dice": ("dice",), "matches_json": ("map50", "map50_95")}
"""What follows from each column of the table `image_scores`."""


@dataclass(frozen=True)
class Difference:
    """Accuracy of A minus that of B, 0..1, on the same images.

    `intervals` has the 95 % interval over images of those figures that have one, by the names of
    their columns; `no_interval` says why there is none, and is empty where there is one.
    """

    map50: float | None
    map50_95: float | None
    dice: float | None
    iou: float | None
    on: str
    intervals: Mapping[str, Interval]
    no_interval: str

    @property
    def text(self) -> str:
        """The difference in words."""
        parts = []
        for field, name in FIGURES.items():
            value, interval = getattr(self, field), self.intervals.get(field)
            if value is not None:
                ends = f" ({interval.low:+.4f} to {interval.high:+.4f})" if interval else ""
                parts.append(f"{name} {value:+.4f}{ends}")
        meaning = "; in brackets 95 % over images, paired" if self.intervals else ""
        why = f"; no interval: {self.no_interval}" if parts and self.no_interval else ""
        return f"A minus B: {', '.join(parts) or 'no figure'} on {self.on}{meaning}{why}"


def difference(store: Store, a: Accuracy, b: Accuracy) -> Difference:
    """A minus B; both were scored on the same set."""
    images_a, images_b = _images(store, a.evaluation_no), _images(store, b.evaluation_no)
    problem = _problem(images_a, images_b)
    intervals = {} if problem else _intervals(images_a, images_b)
    return Difference(
        **{name: _minus(getattr(a, name), getattr(b, name)) for name in FIGURES},
        on=a.on,
        intervals=intervals,
        no_interval="" if intervals else problem or "no image has an object",
    )


Rows = Sequence[Mapping[str, Any]]


def _images(store: Store, evaluation_no: int) -> Rows:
    return store.rows(
        """SELECT image_id, dice, matches_json FROM image_scores
           WHERE evaluation_no = :no ORDER BY place""",
        no=evaluation_no,
    )


def _problem(a: Rows, b: Rows) -> str:
    """Why images cannot be paired; empty where they can."""
    if not a or not b:
        return "scores of single images are not stored"
    if [row["image_id"] for row in a] != [row["image_id"] for row in b]:
        return "the images are not the same"
    if len(a) < MIN_IMAGES:
        return f"{len(a)} images where {MIN_IMAGES} are needed"
    return ""


def _intervals(a: Rows, b: Rows) -> Mapping[str, Interval]:
    for column, names in _BLOCKS.items():
        if all(row[column] is not None for row in (*a, *b)):
            return paired_intervals(names, _figures(column, a), _figures(column, b), len(a))
    return {}


def _figures(column: str, rows: Rows) -> Figures:
    if column == "dice":
        return dice_figures([row["dice"] for row in rows])
    return precision_figures([decoded(row["matches_json"]) for row in rows])


def _minus(a: float | None, b: float | None) -> float | None:
    return None if a is None or b is None else a - b
