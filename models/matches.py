"""Which detections were right, image by image: all that an average precision is made of.

COCO matches detections to objects within one image, so the precision over any choice of images
follows from these without a new match. hotcoco matches; see models.evaluate.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Match:
    """A detection: bit k of `hits` is set where it found an object at IoU threshold k.

    `ignored` is the same for detections that count neither as right nor as wrong.
    """

    class_index: int
    score: float
    hits: int
    ignored: int


@dataclass(frozen=True)
class ImageMatches:
    """One image: how many objects of each class count in it, and detections, best first."""

    objects: dict[int, int]
    found: tuple[Match, ...]


def matches(
    evaluated: Iterable[Mapping[str, Any]], ids: Mapping[str, int]
) -> dict[str, ImageMatches]:
    """From what hotcoco evaluated (`eval_imgs`, one range of areas), by image id, as in `ids`."""
    objects: dict[int, dict[int, int]] = {number: {} for number in ids.values()}
    found: dict[int, list[Match]] = {number: [] for number in ids.values()}
    for entry in evaluated:
        number, index = entry["image_id"], entry["category_id"] - 1
        count = sum(not ignored for ignored in entry["gtIgnore"])
        if count:
            objects[number][index] = count
        hits, outs = _bits(entry["dtMatched"]), _bits(entry["dtIgnore"])
        for score, hit, out in zip(entry["dtScores"], hits, outs, strict=True):
            found[number].append(Match(index, score, hit & ~out, out))
    return {
        image_id: ImageMatches(objects[number], tuple(sorted(found[number], key=_best_first)))
        for image_id, number in ids.items()
    }


def without_tail(found: Mapping[str, ImageMatches]) -> dict[str, ImageMatches]:
    """Less the detections that rank behind the last right one of their class in all images.

    They change no average precision, neither of these images nor of any choice among them, and
    are most of what a detector with a low threshold reports.
    """
    last: dict[int, float] = {}
    for image in found.values():
        for match in image.found:
            if match.hits:
                index = match.class_index
                last[index] = min(match.score, last.get(index, match.score))
    return {
        image_id: ImageMatches(
            image.objects,
            tuple(m for m in image.found if m.score >= last.get(m.class_index, math.inf)),
        )
        for image_id, image in found.items()
    }


def _best_first(match: Match) -> float:
    return -match.score


def _bits(flags: Sequence[Sequence[bool]]) -> list[int]:
    """From rows of flags, one a threshold, to a number for each column."""
    columns = zip(*flags, strict=True)
    return [sum(1 << k for k, flag in enumerate(column) if flag) for column in columns]
