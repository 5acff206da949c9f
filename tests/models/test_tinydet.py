import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest

import models
from models.data.draw import CLASS_NAMES
from models.train.card import make_card

WEIGHTS = Path(models.__file__).parent / "weights"
FILE = WEIGHTS / "tinydet.onnx"
CARD: dict[str, Any] = json.loads((WEIGHTS / "tinydet.json").read_text())
FIGURES = ("map50", "map50_95")


@pytest.fixture(scope="module")
def graph() -> onnx.GraphProto:
    return onnx.load(str(FILE)).graph


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return make_card(FILE, tmp_path_factory.mktemp("shapes"), threads=2)


@pytest.mark.slow
def test_stated_figures_are_true(measured: dict[str, Any]) -> None:
    """The shipped file reaches the card's mAP on all images of the set that the card names."""
    for name in FIGURES:
        assert measured[name] == pytest.approx(CARD[name], abs=0.002)
    by_class = measured["map50_95_by_class"]
    assert by_class == pytest.approx(CARD["map50_95_by_class"], abs=0.005)


@pytest.mark.slow
def test_card_says_what_the_file_says(measured: dict[str, Any]) -> None:
    """Everything else on the card, but versions of tools, comes out the same again."""
    varying = (*FIGURES, "map50_95_by_class", "tools")
    assert {k: v for k, v in measured.items() if k not in varying} == {
        k: v for k, v in CARD.items() if k not in varying
    }


def test_shipped_detector_is_good_and_not_perfect() -> None:
    """Figures that compression can change: far from useless and from saturated."""
    assert 0.85 <= CARD["map50"] < 0.99
    assert CARD["map50_95"] < CARD["map50"]
    assert (CARD["scored_on"], CARD["images"]) == ("shapes-v1/val", 256)


def test_shipped_file_is_small() -> None:
    """Under 4 MB and under one million parameters."""
    assert FILE.stat().st_size == CARD["size_bytes"] < 4_000_000
    assert CARD["parameters"] < 1_000_000


def test_metadata_tell_task_classes_and_training() -> None:
    """A reader learns from the file alone how to decode it, and how it was made."""
    metadata = {entry.key: entry.value for entry in onnx.load(str(FILE)).metadata_props}
    assert metadata["task"] == "detect"
    assert json.loads(metadata["names"]) == list(CLASS_NAMES)
    assert metadata["imgsz"] == "160"
    assert metadata["dataset"] == "shapes"
    assert metadata["licence"] == "Apache-2.0"
    assert json.loads(metadata["training"])["seed"] == CARD["training"]["seed"]


def test_one_fixed_input_and_one_output() -> None:
    """One image in, one tensor (1, 4 + classes, anchors) out, no dynamic dimension."""
    session = onnxruntime.InferenceSession(str(FILE), providers=["CPUExecutionProvider"])
    (image,), (output,) = session.get_inputs(), session.get_outputs()
    anchors = 20 * 20 + 10 * 10 + 5 * 5
    assert (image.name, image.type, image.shape) == ("images", "tensor(float)", [1, 3, 160, 160])
    assert (output.name, output.shape) == ("output", [1, 4 + len(CLASS_NAMES), anchors])


def test_batch_norms_are_folded(graph: onnx.GraphProto) -> None:
    """Only convolutions with their bias are left, as INT8 kernels want them."""
    kinds = [node.op_type for node in graph.node]
    assert "BatchNormalization" not in kinds
    assert all(len(node.input) == 3 for node in graph.node if node.op_type == "Conv")


def after(graph: onnx.GraphProto, names: set[str]) -> Iterator[onnx.NodeProto]:
    """Nodes that read, directly or not, what the named nodes write; nodes are in order."""
    reached = {out for node in graph.node if node.name in names for out in node.output}
    for node in graph.node:
        if node.name not in names and reached & set(node.input):
            reached |= set(node.output)
            yield node


def test_exactly_the_decode_is_named_so(graph: onnx.GraphProto) -> None:
    """What follows the last convolutions is named /decode/..., and nothing else is."""
    convolutions = {node.name for node in graph.node if node.op_type == "Conv"}
    last = {
        name
        for name in convolutions
        if not any(node.name in convolutions for node in after(graph, {name}))
    }
    assert len(last) == 2 * 3  # boxes and classes of three scales
    decode = {node.name for node in after(graph, last)}
    assert all(name.startswith("/decode/") for name in decode)
    named = {node.name for node in graph.node if node.name.startswith("/decode/")}
    constants = {node.name for node in graph.node if node.op_type == "Constant"}
    assert named - constants == decode


def test_output_holds_boxes_in_pixels_and_scores_in_0_to_1() -> None:
    """Boxes lie within reach of the 160 pixels, widths are not negative, scores are shares."""
    session = onnxruntime.InferenceSession(str(FILE), providers=["CPUExecutionProvider"])
    image = np.random.default_rng(0).random((1, 3, 160, 160), dtype=np.float32)
    (output,) = session.run(None, {"images": image})
    assert np.isfinite(output).all()
    assert output[0, 2:4].min() >= 0
    assert output[0, 2:4].max() > 20  # pixels, not cells or shares
    assert 0 <= output[0, 4:].min() <= output[0, 4:].max() <= 1
