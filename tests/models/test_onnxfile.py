"""Inspection of ONNX files, and the files that are refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper
from support import nets

from models.errors import ModelUnreadable
from models.explain import explain
from models.onnxfile import describe, load, source_digest
from models.spec import file_digest


def external(folder: Path, location: str = "net.data") -> Path:
    """A detector whose weights lie in `location`, relative to the model's folder."""
    path = nets.detector(folder / "net.onnx")
    model = onnx.load(path)
    onnx.save_model(model, path, save_as_external_data=True, location="net.data", size_threshold=0)
    model = onnx.load(path, load_external_data=False)
    for tensor in model.graph.initializer:
        for entry in tensor.external_data:
            if entry.key == "location":
                entry.value = location
    path.write_bytes(model.SerializeToString())
    return path


def test_a_model_is_described(tmp_path: Path) -> None:
    """Inputs, outputs, metadata, opset, operators and parameters are read from the file."""
    info = describe(nets.detector(tmp_path / "net.onnx"))
    assert info.inputs == {"images": ("float32", (1, 3, 32, 32))}
    assert info.outputs == {"output": ("float32", (1, 6, 64))}
    assert info.metadata == nets.DETECT
    assert info.opset == 17
    assert info.nodes["Conv"] == 3
    assert sum(info.nodes.values()) == 11
    assert info.parameters == 16 * 3 * 9 + 32 * 16 * 9 + 6 * 32
    assert info.external_files == ()


@pytest.mark.parametrize(("second", "parameters"), [("v", 2 * 9 + 2 * 3), ("w", 9 + 3)])
def test_a_bias_counts_with_each_weight(tmp_path: Path, second: str, parameters: int) -> None:
    """An exporter writes equal biases once; a layer that is used twice has one all the same."""
    sizes = {"w": (3, 3, 1, 1), "v": (3, 3, 1, 1), "b": (3,)}
    used = dict.fromkeys(("w", second, "b"))
    path = nets.save(
        tmp_path / "net.onnx",
        [
            helper.make_node("Conv", ["x", "w", "b"], ["m"], name="/encoder/first"),
            helper.make_node("Conv", ["m", second, "b"], ["n"], name="/bottleneck/second"),
            helper.make_node("Relu", ["n"], ["y"], name="/decoder/third"),
        ],
        [numpy_helper.from_array(np.zeros(sizes[name], dtype=np.float32), name) for name in used],
        inputs={"x": (1, 3, 8, 8)},
        outputs={"y": (1, 3, 8, 8)},
    )
    assert describe(path).parameters == parameters
    sections = {part.name: part for part in explain(path, {}).sections}
    assert sum(part.parameters for part in sections.values()) == parameters
    assert sections["encoder"].parameters == 9 + 3
    assert describe(path).weight_bytes == 4 * (len(used) - 1) * 9 + 4 * 3


def test_dynamic_dimensions_keep_their_names(tmp_path: Path) -> None:
    """A dynamic dimension is its name, or None where it has none or is written as zero."""
    node = helper.make_node("Relu", ["x"], ["y"], name="relu")
    path = nets.save(
        tmp_path / "net.onnx", [node], [], inputs={"x": ("batch", 3, None, 0)}, outputs={"y": ()}
    )
    tensor = describe(path).inputs["x"]
    assert tensor.shape == ("batch", 3, None, None)
    assert not tensor.fixed


def test_initializers_that_are_also_inputs_are_no_inputs(tmp_path: Path) -> None:
    """Weights that old exporters list among the inputs are not something to feed."""
    weight = numpy_helper.from_array(np.ones((4, 3, 1, 1), dtype=np.float32), "w")
    node = helper.make_node("Conv", ["x", "w"], ["y"], name="conv")
    path = nets.save(
        tmp_path / "net.onnx",
        [node],
        [weight],
        inputs={"x": (1, 3, 8, 8), "w": (4, 3, 1, 1)},
        outputs={"y": (1, 4, 8, 8)},
    )
    assert list(describe(path).inputs) == ["x"]


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "no operators"),
        (b"\x89PNG\r\n\x1a\n" + bytes(100), "not an ONNX file"),
        (b"just some text, not a model", "not an ONNX file"),
        (b"\x18\x00\x00\x00ORTM" + bytes(50), "ONNX Runtime's own format"),
    ],
)
def test_files_of_other_kinds_are_refused(tmp_path: Path, content: bytes, reason: str) -> None:
    """A file that is no ONNX model is refused with its path and the reason."""
    path = tmp_path / "wrong.onnx"
    path.write_bytes(content)
    with pytest.raises(ModelUnreadable, match=reason) as caught:
        describe(path)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9, 0.99])
def test_truncated_models_are_refused(tmp_path: Path, share: float) -> None:
    """A download that stopped is refused wherever it stopped."""
    path = nets.detector(tmp_path / "net.onnx")
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * share)])
    with pytest.raises(ModelUnreadable, match=r"net\.onnx"):
        describe(path)


def test_contradictory_models_are_refused(tmp_path: Path) -> None:
    """A graph that reads a tensor nobody makes is not a valid model."""
    node = helper.make_node("Relu", ["ghost"], ["y"], name="relu")
    path = nets.save(tmp_path / "net.onnx", [node], [], inputs={"x": (1,)}, outputs={"y": (1,)})
    with pytest.raises(ModelUnreadable, match="not a valid ONNX model"):
        describe(path)


def test_missing_files_and_folders_are_refused(tmp_path: Path) -> None:
    """A path without a file, or with a folder, says which path."""
    for path in (tmp_path / "none.onnx", tmp_path):
        with pytest.raises(ModelUnreadable, match=str(path)):
            describe(path)


def test_external_data_beside_the_model_is_read(tmp_path: Path) -> None:
    """Weights in a file beside the model count, load, and are part of its digest."""
    path = external(tmp_path)
    info = describe(path)
    assert info.external_files == (tmp_path / "net.data",)
    assert info.parameters == 16 * 3 * 9 + 32 * 16 * 9 + 6 * 32
    before = source_digest(path, info)
    assert before != file_digest(path)
    weight = next(t for t in load(path).graph.initializer if t.name == "w1")
    assert numpy_helper.to_array(weight).std() > 0.1
    data = bytearray((tmp_path / "net.data").read_bytes())
    data[7] ^= 1
    (tmp_path / "net.data").write_bytes(data)
    assert source_digest(path, info) != before


@pytest.mark.parametrize("location", ["../net.data", "/etc/hostname", "sub/../../net.data", "."])
def test_external_data_outside_the_folder_is_refused(tmp_path: Path, location: str) -> None:
    """A model cannot make us read files elsewhere, by `..` or by an absolute path."""
    folder = tmp_path / "model"
    folder.mkdir()
    (tmp_path / "net.data").write_bytes(bytes(100_000))
    path = external(folder, location)
    with pytest.raises(ModelUnreadable, match="outside the model's folder"):
        describe(path)
    with pytest.raises(ModelUnreadable, match="outside the model's folder"):
        load(path)


def test_external_data_behind_a_link_is_refused(tmp_path: Path) -> None:
    """A symbolic link that leaves the folder is followed before the folder is checked."""
    folder = tmp_path / "model"
    folder.mkdir()
    path = external(folder)
    (folder / "net.data").rename(tmp_path / "elsewhere.data")
    (folder / "net.data").symlink_to(tmp_path / "elsewhere.data")
    with pytest.raises(ModelUnreadable, match="outside the model's folder"):
        describe(path)


def test_missing_and_short_external_data_are_refused(tmp_path: Path) -> None:
    """Weights that are absent, or end too early, are found before anything is built."""
    path = external(tmp_path)
    data = (tmp_path / "net.data").read_bytes()
    (tmp_path / "net.data").write_bytes(data[:-1])
    with pytest.raises(ModelUnreadable, match="is the download complete"):
        describe(path)
    (tmp_path / "net.data").unlink()
    with pytest.raises(ModelUnreadable, match=r"'net\.data' is missing"):
        describe(path)


def test_weights_of_integer_operators_are_parameters(tmp_path: Path) -> None:
    """An INT8 file of QLinear operators has its weights and biases as parameters, no scales."""
    rng = np.random.default_rng(0)

    def scale(name: str, count: int) -> Any:
        return numpy_helper.from_array(rng.random(count, np.float32), name)

    def zero(name: str, kind: Any, count: int) -> Any:
        return numpy_helper.from_array(np.zeros(count, kind), name)

    names = ["q", "xs", "xz", "w", "ws", "wz", "ys", "yz", "b"]
    path = nets.save(
        tmp_path / "q.onnx",
        [
            helper.make_node("QuantizeLinear", ["x", "xs", "xz"], ["q"]),
            helper.make_node("QLinearConv", names, ["c"], pads=[1] * 4),
            helper.make_node("DequantizeLinear", ["c", "ys", "yz"], ["y"]),
        ],
        [
            *(scale("xs", 1), zero("xz", np.uint8, 1), scale("ys", 1), zero("yz", np.uint8, 1)),
            *(scale("ws", 4), zero("wz", np.int8, 4)),
            numpy_helper.from_array(np.ones((4, 3, 3, 3), np.int8), "w"),
            numpy_helper.from_array(np.ones(4, np.int32), "b"),
        ],
        inputs={"x": (1, 3, 8, 8)},
        outputs={"y": (1, 4, 8, 8)},
    )
    assert describe(path).parameters == 4 * 27 + 4


def test_what_a_decode_reckons_with_is_no_parameter(tmp_path: Path) -> None:
    """Grids of anchors and what maps are enlarged by follow from the size; a bias is learned."""

    def ones(name: str, *shape: int) -> Any:
        return numpy_helper.from_array(np.ones(shape, np.float32), name)

    path = nets.save(
        tmp_path / "net.onnx",
        [
            helper.make_node("Mul", ["x", "gain"], ["a"]),
            helper.make_node("Resize", ["a", "", "twice"], ["b"]),
            helper.make_node("MatMul", ["b", "w"], ["c"]),
            helper.make_node("Add", ["c", "bias"], ["d"]),
            helper.make_node("Sigmoid", ["d"], ["e"]),
            helper.make_node("Add", ["e", "grid"], ["y"]),
        ],
        [ones("gain", 4), ones("twice", 2), ones("w", 4, 3), ones("bias", 3), ones("grid", 3)],
        inputs={"x": (1, 4)},
        outputs={"y": (1, 3)},
    )
    assert describe(path).parameters == 4 + 4 * 3 + 3
