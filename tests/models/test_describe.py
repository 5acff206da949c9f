"""From inputs, outputs and metadata to how a model is fed and read."""

from __future__ import annotations

import json

import pytest

from agent.wire import DetectHead, ImagePrep, SegmentHead
from models.describe import class_names, describe_io, image_size
from models.tensors import TensorInfo

IMAGE = {"images": TensorInfo("float32", (1, 3, 320, 256))}
SEGMENT = {"task": "segment", "names": "{0: 'sky', 1: 'road'}", "imgsz": "[320, 256]"}
DETECT = {"task": "detect", "names": "{0: 'cat', 1: 'dog'}", "imgsz": "[320, 256]"}


def output(*shape: int | str | None) -> dict[str, TensorInfo]:
    return {"output0": TensorInfo("float32", shape)}


def test_a_detector_is_recognised() -> None:
    """Metadata, an image input and (1, 4 + classes, anchors) make a full description."""
    found = describe_io(IMAGE, output(1, 6, 1680), DETECT)
    assert found.task == "detect"
    assert found.head == DetectHead(decoder="yolo_v8", num_classes=2)
    assert found.prep == ImagePrep(height=320, width=256)
    assert found.class_names == ("cat", "dog")
    assert found.reason is None


def test_an_end_to_end_detector_is_recognised() -> None:
    """(1, n, 6) is decoded as rows of boxes, also where the classes are two."""
    found = describe_io(IMAGE, output(1, 300, 6), DETECT)
    assert found.head == DetectHead(decoder="end_to_end", num_classes=2)


@pytest.mark.parametrize(
    ("names", "shape"),
    [
        ("['cell']", (1, 1, 320, 256)),
        ("{0: 'sky', 1: 'road'}", (1, 2, 320, 256)),
        ("{0: 'sky', 1: 'road'}", ("batch", 2, "height", "width")),
    ],
)
def test_a_segmenter_is_recognised(names: str, shape: tuple[int | str, ...]) -> None:
    """Metadata, an image input and one probability a class and pixel make a full description."""
    found = describe_io(IMAGE, output(*shape), SEGMENT | {"names": names})
    assert (found.task, found.prep) == ("segment", ImagePrep(height=320, width=256))
    assert found.head == SegmentHead(num_classes=len(found.class_names))
    assert found.reason is None


def test_dynamic_inputs_take_their_size_from_the_metadata() -> None:
    """Where height and width are dynamic, the export's imgsz is the letterbox."""
    inputs = {"images": TensorInfo("float32", ("batch", 3, "height", "width"))}
    found = describe_io(inputs, output("batch", 6, "anchors"), DETECT)
    assert found.prep == ImagePrep(height=320, width=256)
    assert found.head is not None


@pytest.mark.parametrize(
    ("inputs", "outputs", "metadata", "reason"),
    [
        (IMAGE, output(1, 6, 9), {}, "task=None"),
        (IMAGE, output(1, 6, 9), DETECT | {"task": "classify"}, "task='classify'"),
        (IMAGE, output(1, 38, 1680), SEGMENT, "no known decoder of task 'segment' for 2 classes"),
        (IMAGE, output(1, 1, 320, 256), SEGMENT, "no known decoder"),
        (IMAGE, output(1, 2, 80, 64), SEGMENT, "no known decoder"),
        (IMAGE, output(1, 2, 320, 256) | {"p": TensorInfo("float32", (1,))}, SEGMENT, "decoder"),
        (IMAGE, {"o": TensorInfo("uint8", (1, 2, 320, 256))}, SEGMENT, "no known decoder"),
        (IMAGE, output(1, 6, 9), DETECT | {"names": ""}, "class names"),
        (IMAGE, output(1, 7, 9), DETECT, "decoder of task 'detect' for 2 classes"),
        (IMAGE, output(1, 6), DETECT, "fits no known decoder"),
        (IMAGE, output(1, 6, 9) | {"more": TensorInfo("float32", (1,))}, DETECT, "decoder"),
        ({"x": TensorInfo("float32", (8, 3, 9, 9))}, output(8, 6, 9), DETECT, "not one float32"),
        ({"x": TensorInfo("uint8", (1, 3, 9, 9))}, output(1, 6, 9), DETECT, "not one float32"),
        ({"x": TensorInfo("float32", (1, 9, 9, 3))}, output(1, 6, 9), DETECT, "not one float32"),
        (IMAGE | {"y": TensorInfo("float32", (1,))}, output(1, 6, 9), DETECT, "not one float32"),
    ],
)
def test_what_is_not_understood_is_latency_only(
    inputs: dict[str, TensorInfo],
    outputs: dict[str, TensorInfo],
    metadata: dict[str, str],
    reason: str,
) -> None:
    """Everything else has no task and no head, and the reason says what was missing."""
    found = describe_io(inputs, outputs, metadata)
    assert (found.task, found.head, found.prep, found.class_names) == (None, None, None, ())
    assert reason in (found.reason or "")


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("{0: 'cat', 1: 'dog'}", ("cat", "dog")),
        ("{1: 'dog', 0: 'cat'}", ("cat", "dog")),
        ('{"0": "cat", "1": "dog"}', ("cat", "dog")),
        ('["cat", "dog"]', ("cat", "dog")),
        (json.dumps(["고양이", "😀", "𠮷"]), ("고양이", "😀", "𠮷")),
        (str({0: "고양이", 1: "😀"}), ("고양이", "😀")),
        ("{0: 'cat', 2: 'dog'}", ()),
        ("{'cat': 0}", ()),
        ("cat, dog", ()),
        ("", ()),
        ("[" * 10_000, ()),
    ],
)
def test_class_names_are_parsed(text: str, names: tuple[str, ...]) -> None:
    """Names come from Python or JSON literals, in order of index, or not at all."""
    assert class_names(text) == names


def test_class_names_are_never_evaluated(capfd: pytest.CaptureFixture[str]) -> None:
    """A model's metadata is data: an expression in it is not run."""
    assert class_names("{0: __import__('os').system('echo pwned')}") == ()
    assert "pwned" not in capfd.readouterr().out


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("640", (640, 640)),
        ("[320, 256]", (320, 256)),
        ("(320, 256)", (320, 256)),
        ("-1", None),
        ("[1, 2, 3]", None),
        ("large", None),
    ],
)
def test_image_sizes_are_parsed(text: str, size: tuple[int, int] | None) -> None:
    """`imgsz` is a number or a pair of height and width; anything else is unknown."""
    assert image_size({"imgsz": text}) == size
