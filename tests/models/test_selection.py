"""Which nodes a recipe's words mean: sections, patterns, ranges, the decode."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper
from support import nets

from models import sections
from models.errors import RecipeError
from models.sections import node_sections, section_patterns
from models.steps.selection import left_out
from models.zoo import SHIPPED

CUT = {"backbone": ["/stem/*", "/body/*"], "head": ["/head/*"]}


def detector(path: Path, **extra: str) -> Any:
    return onnx.load(nets.detector(path, metadata=nets.DETECT | extra))


def chain(names: list[str], metadata: Mapping[str, str]) -> Any:
    """Convolutions one after the other."""
    nodes = [
        helper.make_node("Conv", [f"t{i}", "w"], [f"t{i + 1}"], name=name)
        for i, name in enumerate(names)
    ]
    weight = numpy_helper.from_array(np.ones(1, np.float32), "w")
    model = helper.make_model(helper.make_graph(nodes, "g", [], [], [weight]))
    helper.set_model_props(model, dict(metadata))
    return model


def test_a_file_says_its_sections(tmp_path: Path) -> None:
    """The sections in the metadata are those of the nodes, and a node between takes the latest."""
    model = detector(tmp_path / "net.onnx", sections=json.dumps(CUT))
    found = node_sections(model)
    assert found["/stem/Conv"] == found["/body/Mul"] == "backbone"
    assert found["/head/Conv"] == found["/decode/Concat"] == "head"


@pytest.mark.parametrize("text", ["", "[1]", "{", '{"a": 3}', "null"])
def test_unreadable_sections_are_none(tmp_path: Path, text: str) -> None:
    """Metadata that is not what it should be leaves a file without sections."""
    assert section_patterns(detector(tmp_path / "net.onnx", sections=text)) == {}


def test_the_shipped_detector_has_three_sections() -> None:
    """tinydet's file says no sections; the names of its 34 convolutions do: 17, 5 and 12."""
    model = onnx.load(SHIPPED["tinydet"])
    found = node_sections(model)
    convs = [found[node.name] for node in model.graph.node if node.op_type == "Conv"]
    assert [convs.count(name) for name in ("backbone", "neck", "head")] == [17, 5, 12]
    assert found["/Resize"] == found["/Add_1"] == "neck"


@pytest.mark.parametrize(
    ("description", "head", "backbone"),
    [
        ("Ultralytics YOLOv8n model trained on coco.yaml", 22, 10),
        ("Ultralytics YOLO11n model ", 23, 11),
        ("Ultralytics YOLO26n model ", 23, 11),
        ("Ultralytics YOLOv9t model ", 22, 10),
        ("Ultralytics YOLOv9e model ", 42, 30),
        ("Ultralytics YOLOv3-tiny model ", 20, 13),
        ("Ultralytics YOLOv3 model ", 28, 11),
        ("Ultralytics YOLOv5n model ", 24, 10),
        ("Ultralytics YOLO12n model ", 21, 9),
    ],
)
def test_exports_of_ultralytics_are_recognised(description: str, head: int, backbone: int) -> None:
    """Family and module numbers tell where backbone, neck and head of a user's export begin."""
    names = [f"/model.{index}/conv/Conv" for index in range(head + 1)]
    found = node_sections(chain(names, {"description": description}))
    counted = [list(found.values()).count(name) for name in ("backbone", "neck", "head")]
    assert counted == [backbone, head - backbone, 1]


def test_unknown_families_have_no_sections() -> None:
    """A module count that no family has is not guessed at."""
    names = ["/model.0/conv/Conv", "/model.3/conv/Conv"]
    assert node_sections(chain(names, {"description": "Ultralytics YOLOv8n model "})) == {}
    assert node_sections(chain(["a", "b"], {})) == {}


def test_only_and_exclude(tmp_path: Path) -> None:
    """`only` chooses, `exclude` takes away again; without `only` everything is chosen."""
    model = detector(tmp_path / "net.onnx", sections=json.dumps(CUT))
    names = [node.name for node in model.graph.node]
    assert left_out(model, (), ()) == []
    assert left_out(model, ("backbone",), ()) == names[5:]
    assert left_out(model, ("backbone",), ("/stem/Conv",)) == [names[0], *names[5:]]
    assert left_out(model, ("head",), ("decode",)) == [*names[:5], *names[6:]]
    assert left_out(model, ("/stem/*", "/head/*"), ("decode",)) == [*names[2:5], *names[6:]]


def test_ranges_of_nodes_need_no_sections(tmp_path: Path) -> None:
    """`A..B` is every node from A to B, in the order that the file has them in."""
    model = detector(tmp_path / "net.onnx")
    names = [node.name for node in model.graph.node]
    assert left_out(model, ("/stem/Relu../head/Conv",), ()) == [names[0], *names[6:]]
    assert left_out(model, ("/stem/Conv../stem/Conv",), ()) == names[1:]
    backwards = list(reversed(names))
    assert left_out(model, (f"{backwards[0]}..{backwards[2]}",), (), backwards) == names[:-3]


@pytest.mark.parametrize(
    ("entry", "said"),
    [
        ("neck", "only: no section 'neck' in this network; it has backbone, head, decode"),
        ("/stm/*", "pattern '/stm/\\*' matches none of the node names, which are like /stem/Conv"),
        ("/stem/Conv../heed/Conv", "no node is called '/heed/Conv'; did you mean '/head/Conv'"),
        ("/head/Conv../stem/Conv", "'/head/Conv' comes after '/stem/Conv'"),
    ],
)
def test_words_that_mean_nothing_are_refused(tmp_path: Path, entry: str, said: str) -> None:
    """A mistyped entry does not silently choose nothing; the message says what there is."""
    model = detector(tmp_path / "net.onnx", sections=json.dumps(CUT))
    with pytest.raises(RecipeError, match=said):
        left_out(model, (entry,), ())
    assert left_out(model, (), ("decode",)) != []


def test_a_network_without_sections_says_so(tmp_path: Path) -> None:
    """Where no sections are known, the message offers patterns instead."""
    with pytest.raises(RecipeError, match=r"it has decode, for its file .* tell no others"):
        left_out(detector(tmp_path / "net.onnx"), ("backbone",), ())


def test_patterns_for_ultralytics_cover_every_module() -> None:
    """The exporter's patterns name each module once."""
    found = sections.ultralytics_patterns(10, 22)
    assert [len(found[name]) for name in ("backbone", "neck", "head")] == [10, 12, 1]
    assert found["head"] == ["/model.22/*"]
