"""The original YOLOv3 and its tiny version: sizes, decoding, Darknet's weights, INT8 by section."""

from __future__ import annotations

import itertools
import json
import struct
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="needs the extra `models` (torch)")
import onnx  # noqa: E402 - without torch nothing here can run
import onnxruntime  # noqa: E402
from support.compress import run  # noqa: E402

from models import recipes, zoo  # noqa: E402
from models.build import VariantRequest, build, calibration  # noqa: E402
from models.errors import ModelUnreadable  # noqa: E402
from models.nets import darknet  # noqa: E402
from models.nets.arch import Arch  # noqa: E402
from models.nets.names import default_names  # noqa: E402
from models.nets.net import Net, build_net, load_net, save_net  # noqa: E402
from models.nets.registry import FAMILIES  # noqa: E402
from models.steps import qat  # noqa: E402
from models.steps.compress_kinds import QatParams  # noqa: E402
from models.steps.export_net import export_onnx  # noqa: E402
from models.steps.graph import decode_nodes  # noqa: E402
from models.steps.isa import host_isa  # noqa: E402
from models.store import ArtifactStore  # noqa: E402

pytestmark = pytest.mark.torch

STUDY = {"all": 0.252, "backbone": 0.506, "neck": 0.820, "head": 0.921}
"""Sizes of the files of the VOC study relative to its baseline, by what is INT8."""


def arch(family: str, imgsz: int = 96, **options: Any) -> Arch:
    every = {**FAMILIES[family].options, **options}
    names = default_names("detect", every["num_classes"])
    return Arch(family=family, options=every, imgsz_px=imgsz, class_names=names)


def twin(family: str, imgsz: int = 96, **options: Any) -> Net:
    """A network of an eighth of the width, in eval mode."""
    net = build_net(arch(family, imgsz, **{"width": 0.125, "num_classes": 3, **options}))
    net.module.eval()
    return net


def shares(description: Arch) -> dict[str, int]:
    """Parameters by section, with those of the whole network as `all`."""
    with torch.device("meta"):
        module = darknet.build(description)
    sections = darknet.sections(description)
    sizes = {name: value.numel() for name, value in module.named_parameters()}
    counts = {
        section: sum(n for name, n in sizes.items() if name.startswith(tuple(prefixes)))
        for section, prefixes in sections.items()
    }
    return {"all": sum(sizes.values()), **counts}


@pytest.mark.parametrize(
    ("family", "num_classes", "expected"),
    [
        ("yolov3", 20, (61_626_049, 40_584_928, 14_709_760, 6_331_361)),
        ("yolov3", 80, (61_949_149, 40_584_928, 14_709_760, 6_654_461)),
        ("yolov3-tiny", 20, (8_713_766, 6_294_416, 295_680, 2_123_670)),
        ("yolov3-tiny", 80, (8_852_366, 6_294_416, 295_680, 2_262_270)),
    ],
)
def test_the_networks_have_the_original_sizes(
    family: str, num_classes: int, expected: tuple[int, ...]
) -> None:
    """Whole, backbone, neck and head have exactly these parameters, and together they are all."""
    counts = shares(arch(family, num_classes=num_classes))
    assert tuple(counts.values()) == expected
    assert counts["all"] == sum(expected[1:])


def test_the_cut_gives_the_study_s_size_ratios() -> None:
    """INT8 saves three quarters of a section: each published ratio follows within 2 %."""
    counts = shares(arch("yolov3", num_classes=20))
    assert abs(counts["all"] / 61.6e6 - 1) < 0.01
    for section, published in STUDY.items():
        ratio = 1 - 0.75 * counts[section] / counts["all"]
        assert abs(ratio / published - 1) < 0.02, section


def test_training_gives_raw_maps_and_eval_gives_boxes() -> None:
    """Three maps of (n, 3, h, w, 5 + classes), finest first, or one (n, 4 + classes, anchors)."""
    net = twin("yolov3")
    images = torch.rand(2, 3, 96, 96)
    maps = net.module.train()(images)
    assert [tuple(each.shape) for each in maps] == [(2, 3, n, n, 8) for n in (12, 6, 3)]
    assert tuple(net.module.anchors.shape) == (3, 3, 2)
    with torch.no_grad():
        out = net.module.eval()(images)
    assert tuple(out.shape) == (2, 7, 3 * (144 + 36 + 9))
    assert 0 <= float(out[:, 4:].min()) <= float(out[:, 4:].max()) <= 1


@pytest.mark.parametrize(
    ("family", "anchors"), [("yolov3", darknet.ANCHORS), ("yolov3-tiny", darknet.TINY_ANCHORS)]
)
def test_decoding_agrees_with_the_paper_s_equations(family: str, anchors: Any) -> None:
    """Every anchor of every cell gives the box that a loop over the paper's formula gives."""
    net = twin(family, anchor_scale=0.5)
    images = torch.rand(1, 3, 96, 96)
    with torch.no_grad():
        found = net.module(images)[0].T
        maps = net.module.raw(images)
    expected = []
    for level, stride, sizes in zip(maps, net.module.strides, anchors, strict=True):
        for anchor, (width, height) in enumerate(sizes):
            side = level.shape[2]
            for y, x in itertools.product(range(side), range(side)):
                tx, ty, tw, th, objectness, *classes = level[0, anchor, y, x]
                box = [(tx.sigmoid() + x) * stride, (ty.sigmoid() + y) * stride]
                box += [tw.exp() * width / 2, th.exp() * height / 2]
                expected.append(box + [objectness.sigmoid() * c.sigmoid() for c in classes])
    assert torch.allclose(found, torch.tensor(expected), atol=1e-4)


def test_the_tiny_network_pools_in_place_as_darknet_does() -> None:
    """A cell gets the largest of itself and its right, lower and diagonal neighbours."""
    x = torch.randn(2, 3, 5, 5)
    pooled = darknet._pool_in_place(x)
    for y, left in itertools.product(range(5), range(5)):
        window = x[:, :, y : y + 2, left : left + 2]
        assert torch.equal(pooled[:, :, y, left], window.amax(dim=(2, 3)))


def cfg_convolutions(family: str) -> list[tuple[int, int, bool]]:
    """(filters, kernel, batch norm) in the order of Darknet's .cfg, for 3 * (5 + 3) outputs."""
    if family == "yolov3-tiny":
        rows = [(f, 3) for f in (16, 32, 64, 128, 256, 512, 1024)]
        rows += [(256, 1), (512, 3), (24, 0), (128, 1), (256, 3), (24, 0)]
    else:
        rows = [(32, 3)]
        for filters, blocks in ((64, 1), (128, 2), (256, 8), (512, 8), (1024, 4)):
            rows += [(filters, 3), *[(filters // 2, 1), (filters, 3)] * blocks]
        for narrow in (512, 256, 128):
            rows += [(narrow, 1), (2 * narrow, 3)] * 3 + [(24, 0)]
            rows += [(narrow // 2, 1)] if narrow > 128 else []
    return [(filters, kernel or 1, kernel != 0) for filters, kernel in rows]


NARROW = {"num_classes": 3, "width": 0.25}


def convolutions(module: Any) -> list[Any]:
    """In the order of a weights file."""
    return [
        layer
        for part in module.darknet_order()
        for layer in part.modules()
        if isinstance(layer, torch.nn.Conv2d)
    ]


def weights_file(path: Path, header: bytes | None = None) -> list[Any]:
    """Write a narrow yolov3-tiny's numbers; the convolutions' weights in order are returned."""
    rng = np.random.default_rng(0)
    with torch.device("meta"):
        module = darknet.build(arch("yolov3-tiny", **NARROW))
    kept = []
    parts = [header if header is not None else struct.pack("<iiiq", 0, 2, 0, 32_013_312)]
    for layer in convolutions(module):
        numbers = 4 if layer.bias is None else 1  # batch norm: bias, weight, mean, variance
        parts.append(rng.random(numbers * layer.out_channels, dtype=np.float32).tobytes())
        kept.append(rng.standard_normal(layer.weight.shape, dtype=np.float32))
        parts.append(kept[-1].tobytes())
    path.write_bytes(b"".join(parts))
    return kept


def test_darknet_weights_go_where_the_cfg_says(tmp_path: Path) -> None:
    """Layers are filled in the order of yolov3-tiny.cfg: norms, then weights, biases at heads."""
    path = tmp_path / "tiny.weights"
    kept = weights_file(path)
    net = build_net(arch("yolov3-tiny", **NARROW))
    darknet.load_weights(net.module, path)
    numbers = np.frombuffer(path.read_bytes(), "<f4", offset=20)
    first = net.module.backbone.stage1
    for place, tensor in enumerate(
        (first.norm.bias, first.norm.weight, first.norm.running_mean, first.norm.running_var)
    ):
        assert np.array_equal(tensor.detach(), numbers[8 * place : 8 * (place + 1)])
    assert np.array_equal(first.conv.weight.detach(), kept[0])
    assert np.array_equal(net.module.heads[1].output.weight.detach(), kept[9])
    assert np.array_equal(net.module.neck.lateral32.conv.weight.detach(), kept[10])
    assert np.array_equal(net.module.heads[0].output.weight.detach(), kept[12])


@pytest.mark.parametrize(("family", "count"), [("yolov3", 75), ("yolov3-tiny", 13)])
def test_the_layers_follow_the_cfg(family: str, count: int) -> None:
    """Filters, kernels and norms come in the order of Darknet's own .cfg."""
    with torch.device("meta"):
        module = darknet.build(arch(family, num_classes=3))
    found = [(c.out_channels, c.kernel_size[0], c.bias is None) for c in convolutions(module)]
    assert found == cfg_convolutions(family)
    assert len(found) == count


def test_an_old_header_is_four_bytes_shorter(tmp_path: Path) -> None:
    """Files before version 0.2 count images in 4 bytes, and load the same."""
    new, old = tmp_path / "new.weights", tmp_path / "old.weights"
    weights_file(new)
    weights_file(old, struct.pack("<iiii", 0, 1, 0, 7))
    assert new.stat().st_size - old.stat().st_size == 4
    nets = []
    for path in (new, old):
        nets.append(build_net(arch("yolov3-tiny", **NARROW)))
        darknet.load_weights(nets[-1].module, path)
    assert torch.equal(nets[0].module.heads[0].output.bias, nets[1].module.heads[0].output.bias)


def _cut(data: bytes) -> bytes:
    return data[:-4]


def _ragged(data: bytes) -> bytes:
    return data[:-3]


def _longer(data: bytes) -> bytes:
    return data + b"\0" * 4


def _nan(data: bytes) -> bytes:
    return data[:-4] + struct.pack("<f", float("nan"))


def _not_darknet(data: bytes) -> bytes:
    return b"PK\x03\x04 a zip file of somebody" + data


def _short(_data: bytes) -> bytes:
    return b"\0" * 7


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (_cut, "check the model, `num_classes` and `width`"),
        (_ragged, "no whole number of weights"),
        (_longer, "check the model"),
        (_nan, "not finite"),
        (_not_darknet, "not a Darknet weights file"),
        (_short, "7 bytes are no Darknet weights file"),
    ],
)
def test_a_spoilt_weights_file_changes_nothing(tmp_path: Path, spoil: Any, words: str) -> None:
    """Cut, longer, not finite, or of another kind: refused in words, the network untouched."""
    path = tmp_path / "spoilt.weights"
    weights_file(path)
    path.write_bytes(spoil(path.read_bytes()))
    net = build_net(arch("yolov3-tiny", **NARROW))
    before = net.module.backbone.stage1.conv.weight.clone()
    with pytest.raises(ModelUnreadable, match=words):
        darknet.load_weights(net.module, path)
    assert torch.equal(before, net.module.backbone.stage1.conv.weight)


def test_weights_of_other_classes_are_refused_with_both_counts(tmp_path: Path) -> None:
    """A file for 3 classes does not fill a network for 20, and no such file is said plainly."""
    path = tmp_path / "three.weights"
    weights_file(path)
    net = build_net(arch("yolov3-tiny", **{**NARROW, "num_classes": 20}))
    with pytest.raises(ModelUnreadable, match=r"holds 5\d{5} numbers and this network has 5\d{5}"):
        darknet.load_weights(net.module, path)
    with pytest.raises(ModelUnreadable, match="No such file"):
        darknet.load_weights(net.module, tmp_path / "absent.weights")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"width": 0}, "width 0.0"),
        ({"num_classes": 0}, "num_classes 0"),
        ({"activation": "tanh"}, "known are leaky_relu, relu, silu"),
    ],
)
def test_an_impossible_option_is_refused_in_words(options: dict[str, Any], words: str) -> None:
    """Width, classes and activation are checked before anything is built."""
    with pytest.raises(ValueError, match=words):
        build_net(arch("yolov3-tiny", **options))


def test_an_input_must_be_a_multiple_of_the_coarsest_stride() -> None:
    """100 px is refused, with the number that it must be a multiple of."""
    with pytest.raises(ValueError, match="imgsz is 100; it must be a multiple of 32"):
        build_net(arch("yolov3-tiny", imgsz=100))


@pytest.mark.parametrize("family", ["yolov3", "yolov3-tiny"])
def test_the_export_computes_the_same_and_names_its_parts(tmp_path: Path, family: str) -> None:
    """The ONNX file equals the network that was saved; its sections name every convolution."""
    net = twin(family)
    save_net(net, tmp_path / "twin.net")
    path = tmp_path / "twin.onnx"
    export_onnx(load_net(tmp_path / "twin.net"), path, 17)
    model = onnx.load(str(path))
    images = np.random.default_rng(0).random((1, 3, 96, 96), dtype=np.float32)
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    with torch.no_grad():
        expected = net.module(torch.from_numpy(images)).numpy()
    assert np.allclose(session.run(None, {"images": images})[0], expected, atol=1e-4)
    decode = decode_nodes(model.graph)
    assert all(name.startswith("/decode/") for name in decode)
    metadata = {entry.key: entry.value for entry in model.metadata_props}
    patterns = json.loads(metadata["sections"])
    for node in model.graph.node:
        sections = [
            section
            for section, known in patterns.items()
            if any(fnmatchcase(node.name, pattern) for pattern in known)
        ]
        assert len(sections) == int(node.name not in decode), node.name


def noise(folder: Path, imgsz: int, count: int) -> list[Path]:
    """Images of noise as `.npy`, for networks whose accuracy nobody asks for."""
    folder.mkdir()
    rng = np.random.default_rng(0)
    paths = [folder / f"{index}.npy" for index in range(count)]
    for path in paths:
        np.save(path, rng.random((1, 3, imgsz, imgsz), dtype=np.float32))
    return paths


@pytest.mark.slow
@pytest.mark.long
@pytest.mark.timeout(1800)
def test_the_files_of_the_study_have_its_size_ratios(tmp_path: Path) -> None:
    """Full network, 20 classes, 416 px: each INT8 file is as much smaller as published, in 2 %."""
    spec = zoo.resolve("yolov3", imgsz=416, options={"num_classes": 20})
    store = ArtifactStore(tmp_path / "store")
    given = calibration(noise(tmp_path / "noise", 416, 2), None)

    def size_bytes(recipe: str) -> int:
        request = VariantRequest(spec, recipes.get(recipe), host_isa(), given)
        return build(request, store, print).manifest.size_bytes

    baseline = size_bytes("fp32")
    assert abs(baseline / 4 / 61_626_049 - 1) < 0.01
    for section, published in STUDY.items():
        recipe = "int8_ptq" if section == "all" else f"int8_{section}"
        assert abs(size_bytes(recipe) / baseline / published - 1) < 0.02, section


@pytest.mark.slow
@pytest.mark.long
@pytest.mark.timeout(900)
def test_the_file_of_qat_has_the_published_size_ratio(tmp_path: Path) -> None:
    """The same network with rounding in every layer, as QAT exports it: 0.252 within 2 %."""
    net = build_net(arch("yolov3", 416, num_classes=20))
    net.module.eval()
    baseline = run("export_net", net, tmp_path / "fp32").path.stat().st_size
    qat.prepare(net, QatParams())
    net.module.train()
    with torch.no_grad():  # ranges need one image; the weights stay as they are
        net.module(torch.rand(1, 3, 416, 416, generator=torch.Generator().manual_seed(0)))
    net.module.eval()
    ours = run("export_int8", net, tmp_path / "qat", isa=host_isa()).path.stat().st_size
    assert abs(baseline / 4 / 61_626_049 - 1) < 0.01
    assert abs(ours / baseline / STUDY["all"] - 1) < 0.02
