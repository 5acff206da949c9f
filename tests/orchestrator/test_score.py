"""Classes matched by name, and detections turned into the data set's terms."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent import wire
from models import zoo
from models.data import Box, DetectionSet, LabelledImage
from orchestrator.errors import ExperimentError
from orchestrator.score import class_map, detections_by_image, evaluated, require_shared_classes


def dataset(names: tuple[str, ...], count: int = 3) -> DetectionSet:
    images = tuple(
        LabelledImage(f"i{n}", Path(f"/{n}.png"), 10, 10, (Box(0, 0, 5, 5, 0),))
        for n in range(count)
    )
    return DetectionSet("set/val", names, images)


def found(image_id: str, *classes: int) -> wire.ImageDetections:
    boxes = tuple(wire.Detection(1.0, 2.0, 3.0, 4.0, 0.5, index) for index in classes)
    return wire.ImageDetections(image_id=image_id, detections=boxes)


@pytest.mark.parametrize(
    ("model", "data", "expected"),
    [
        (("cat", "dog"), ("cat", "dog"), {0: 0, 1: 1}),
        (("cat", "dog"), ("dog", "cat"), {0: 1, 1: 0}),
        (("cat", "dog", "cow"), ("dog",), {1: 0}),
        (("Traffic Light",), ("traffic_light",), {0: 0}),
        (("dining table",), ("diningtable",), {0: 0}),
        (("TV-Monitor",), ("tvmonitor",), {0: 0}),
        (("person",), ("cat", "Person "), {0: 1}),
    ],
)
def test_classes_by_name(
    model: tuple[str, ...], data: tuple[str, ...], expected: dict[int, int]
) -> None:
    """Classes are matched by name, whatever their order, case, blanks and dashes."""
    assert class_map(model, data) == expected


def test_no_shared_class() -> None:
    """Without a shared class there is no accuracy, and the message shows both sides shortly."""
    model = [f"model{n}" for n in range(80)]
    with pytest.raises(ExperimentError) as caught:
        class_map(model, ["circle", "ring"])
    assert "model0, model1, model2, model3, … (80 classes)" in str(caught.value)
    assert "circle, ring" in str(caught.value)


@given(st.permutations(["a", "b", "c", "d", "e"]), st.integers(1, 5))
def test_names_survive_the_mapping(order: list[str], kept: int) -> None:
    """A mapped class has the same name on both sides, and none is mapped twice."""
    names = ["a", "b", "c", "d", "e"][:kept]
    mapping = class_map(order, names)
    assert {order[here]: names[there] for here, there in mapping.items()} == {n: n for n in names}


def test_require_shared_classes() -> None:
    """Only a trained detector has to share classes with the data; others are never scored."""
    model, other = zoo.resolve("tinydet"), dataset(("bus", "tram"))
    require_shared_classes(model, dataset(("ring", "bus")))
    with pytest.raises(ExperimentError, match="circle, ring"):
        require_shared_classes(model, other)
    require_shared_classes(dataclasses.replace(model, trained=False), other)
    require_shared_classes(dataclasses.replace(model, head=None), other)


def test_evaluated_images() -> None:
    """Only the images that were really evaluated count, in the set's own order."""
    subset = dataset(("cat",), 4)
    kept = evaluated(subset, [found("i2"), found("i0"), found("elsewhere")])
    assert [image.image_id for image in kept.images] == ["i0", "i2"]
    assert (kept.name, kept.class_names) == (subset.name, subset.class_names)


def test_foreign_classes_are_dropped() -> None:
    """Detections get the set's class index; those of classes it does not have are left out."""
    turned = detections_by_image([found("i0", 0, 1, 2), found("i1", 2), found("i2")], {0: 5, 1: 3})
    assert [box.class_index for box in turned["i0"]] == [5, 3]
    assert turned["i1"] == turned["i2"] == ()
    assert turned["i0"][0] == wire.Detection(1.0, 2.0, 3.0, 4.0, 0.5, 5)
