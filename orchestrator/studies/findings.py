"""Does a published finding repeat? A range against a figure and its interval. Pure functions."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from orchestrator.studies.published import Finding

Answer = Literal["repeats", "does not repeat", "undecided", "no figure"]


@dataclass(frozen=True)
class Figure:
    """A ratio or difference with its 95 % interval; both ends equal where it is exact."""

    value: float
    low: float
    high: float


def judge(finding: Finding, figure: Figure | None) -> Answer:
    """Whether the whole interval lies within the finding's range, outside of it, or neither.

    The ends of a range do not belong to it: no difference at all is neither better nor worse.
    """
    if figure is None:
        return "no figure"
    low = float("-inf") if finding.low is None else finding.low
    high = float("inf") if finding.high is None else finding.high
    if low < figure.low and figure.high < high:
        return "repeats"
    if figure.high <= low or figure.low >= high:
        return "does not repeat"
    return "undecided"
