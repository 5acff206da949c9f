"""Average precision from matches is hotcoco's, of all images and of any choice among them."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from support.detected import detected

from agent.wire import Detection
from models.data import DetectionSet
from models.evaluate import Scores, score
from models.matches import Match
from orchestrator.accuracy import stored_matches
from results.precision import Precision, mean_average_precision

Found = dict[str, tuple[Detection, ...]]


def weighed(scores: Scores, weights: list[int]) -> list[float]:
    """mAP50 and mAP50-95 of a choice of images, from the matches alone."""
    precision = Precision(list(stored_matches(scores).values()))
    return precision.of(np.array([weights], dtype=np.float32))[0].tolist()


def chosen(dataset: DetectionSet, found: Found, weights: list[int]) -> Scores:
    """The same choice scored by hotcoco: each image as often as its weight says."""
    copies, detections = [], {}
    for image, weight in zip(dataset.images, weights, strict=True):
        for copy in range(weight):
            name = f"{image.image_id}-{copy}"
            copies.append(dataclasses.replace(image, image_id=name))
            detections[name] = found[image.image_id]
    return score(dataclasses.replace(dataset, images=tuple(copies)), detections)


@pytest.mark.parametrize("levels", [None, 12])
@pytest.mark.parametrize(("images", "classes"), [(1, 1), (3, 2), (40, 4), (20, 60)])
def test_all_images_once(images: int, classes: int, levels: int | None) -> None:
    """Over the images as they are the figures are hotcoco's, also where scores are equal."""
    dataset, found = detected(images, classes, seed=images, levels=levels)
    scores = score(dataset, found)
    figures = mean_average_precision(list(stored_matches(scores).values()))
    assert figures == pytest.approx((scores.map50, scores.map50_95), abs=1e-12)


@pytest.mark.parametrize("seed", range(6))
def test_any_choice_of_images(seed: int) -> None:
    """Some images twice and others never: what the bootstrap computes is hotcoco's figure."""
    dataset, found = detected(25, 4, seed=seed)
    weights = np.random.default_rng(seed).multinomial(25, [1 / 25] * 25).tolist()
    direct = chosen(dataset, found, weights)
    figures = weighed(score(dataset, found), weights)
    assert figures == pytest.approx([direct.map50, direct.map50_95], abs=1e-12)


def test_matches_say_what_was_right() -> None:
    """A hit at low overlap, a miss and an ignored object: the bits are those of the thresholds."""
    dataset, _ = detected(1, 1, seed=0)
    image = dataclasses.replace(
        dataset.images[0],
        boxes=tuple(
            dataclasses.replace(dataset.images[0].boxes[0], x1=x, y1=0, x2=x + 10, y2=10,
                                class_index=0, ignore=x > 50)
            for x in (0, 60)
        ),
    )  # fmt: skip
    truth = dataclasses.replace(dataset, images=(image,))
    found = [
        Detection(60, 0, 70, 10, 0.9, 0),
        Detection(30, 30, 40, 40, 0.8, 0),
        Detection(0, 0, 10, 7, 0.7, 0),
        Detection(30, 0, 40, 10, 0.6, 0),
    ]
    (only,) = score(truth, {"0000": found}).matches.values()
    assert only.objects == {0: 1}
    assert only.found == (
        Match(0, 0.9, 0, 1023),
        Match(0, 0.8, 0, 0),
        Match(0, 0.7, 0b11111, 0),
    )


def test_sets_larger_than_a_part() -> None:
    """Matches are taken over in parts; nothing is lost where one ends."""
    dataset, found = detected(300, 2, seed=5, boxes=3)
    scores = score(dataset, found)
    assert list(scores.matches) == [image.image_id for image in dataset.images]
    figures = mean_average_precision(list(stored_matches(scores).values()))
    assert figures == pytest.approx((scores.map50, scores.map50_95), abs=1e-12)
