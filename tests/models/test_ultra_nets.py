"""ultralytics detectors as networks of ours, and how their yaml is scaled."""

from __future__ import annotations

import importlib.util
import json
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest

from models import recipes, zoo
from models.build import VariantRequest, build
from models.chain import links
from models.errors import BuildFailed, ModelNotFound
from models.nets.ultra_yaml import described, input_size, scaled, section_layers
from models.steps.graph import decode_nodes
from models.steps.isa import host_isa
from models.store import Artifact, ArtifactStore

EXTRA = all(importlib.util.find_spec(name) for name in ("torch", "ultralytics", "onnxslim"))
needs_extra = pytest.mark.skipif(not EXTRA, reason="needs the extra `models` (torch, ultralytics)")

SIDE = 96

YOLO: dict[str, Any] = {
    "nc": 80,
    "scales": {"n": [0.33, 0.25, 1024], "m": [0.67, 0.75, 768]},
    "scale": "m",
    "yaml_file": "/somebody/yolo.yaml",
    "channels": 3,
    "backbone": [[-1, 1, "Conv", [64, 3, 2]], [-1, 3, "C2f", [128, True]]],
    "head": [[-1, 1, "Conv", [256, 3, 2]], [[2], 1, "Detect", ["nc"]]],
}
GELAN: dict[str, Any] = {
    "nc": 80,
    "backbone": [[-1, 1, "RepNCSPELAN4", [512, 512, 256, 1]], [-1, 1, "SPPELAN", [512, 256]]],
    "head": [[[1], 1, "Detect", ["nc"]]],
}


def test_a_description_keeps_what_decides_the_network() -> None:
    """No paths, the chosen scale alone, and the yaml that was given stays as it was."""
    found = described(YOLO)
    assert found.keys() == {"nc", "scales", "scale", "backbone", "head"}
    assert found["scales"] == {"m": [0.67, 0.75, 768]}
    assert set(YOLO["scales"]) == {"n", "m"}


def test_options_replace_the_yaml_s_own_scale() -> None:
    """Width, depth and the cap are changed one by one; the letter stays, as blocks depend on it."""
    found = scaled(YOLO, {"width": 0.5, "max_channels": 128, "num_classes": 6})
    assert (found["scale"], found["scales"]) == ("m", {"m": [0.67, 0.5, 128]})
    assert found["nc"] == 6
    assert scaled(YOLO, {"depth": 1.0})["scales"] == {"m": [1.0, 0.75, 768]}
    assert YOLO["scales"]["m"] == [0.67, 0.75, 768]


def test_compound_scaling_grows_depth_width_and_resolution_at_once() -> None:
    """EfficientNet's three bases to one power; what else is said is scaled with it."""
    assert scaled(YOLO, {"compound": 2})["scales"]["m"] == pytest.approx([0.9648, 0.9075, 768])
    both = scaled(YOLO, {"compound": 1, "width": 0.5})["scales"]["m"]
    assert both == pytest.approx([0.804, 0.55, 768])
    assert [input_size({"compound": power}, 160) for power in (0.5, 1, 2)] == [160, 192, 224]
    assert input_size({"width": 0.5}, 160) == 160
    grown = zoo.resolve("yolov8n.yaml", options={"compound": 1}, need_extra=False)
    assert grown.source.imgsz_px == 736
    own = zoo.resolve("yolov8n.yaml", options={"compound": 1}, imgsz=320, need_extra=False)
    assert own.source.imgsz_px == 320


def test_a_cap_reaches_the_widths_inside_a_block() -> None:
    """ultralytics caps what a block gives; what is inside v9's blocks is capped by us."""
    capped = scaled(GELAN, {"max_channels": 128})
    assert capped["backbone"][0][3] == [512, 128, 128, 1]
    assert capped["backbone"][1][3] == [512, 128]
    assert list(capped["scales"].values()) == [[1.0, 1.0, 128]]
    assert scaled(GELAN, {"width": 0.25})["backbone"][0][3] == [512, 128, 64, 1]
    assert GELAN["backbone"][0][3] == [512, 512, 256, 1]


def test_sections_follow_the_yaml() -> None:
    """Backbone, then the head's layers, then the last one, which detects."""
    assert section_layers(YOLO) == {
        "backbone": range(2),
        "neck": range(2, 3),
        "head": range(3, 4),
    }


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"depht": 1}, "option 'depht'"),
        ({"width": "wide"}, "option width: 'wide'"),
        ({"width": True}, "option width: True"),
        ({"width": float("nan")}, "option width: nan"),
        ({"max_channels": 0}, "option max_channels: 0"),
        ({"num_classes": 2.5}, "option num_classes: 2.5 is no whole number"),
    ],
)
def test_a_bad_option_is_named(options: dict[str, Any], words: str) -> None:
    """An unknown name, no number, or none that makes sense is refused with what was given."""
    with pytest.raises(ModelNotFound, match=words):
        scaled(YOLO, options)


@needs_extra
def test_options_make_a_network_of_a_yaml_and_nothing_else() -> None:
    """With options a yaml becomes a network; they are part of its identity; a .pt refuses them."""
    plain = zoo.resolve("yolov8n.yaml", imgsz=SIDE)
    narrow = zoo.resolve("yolov8n.yaml", imgsz=SIDE, options={"width": 0.125})
    assert plain.source.identity != narrow.source.identity
    steps = [
        link.step.name for link in links(VariantRequest(narrow, recipes.get("fp32"), host_isa()))
    ]
    assert steps == ["take_ultralytics", "export_net"]
    with pytest.raises(ModelNotFound, match="option 'wdith'"):
        zoo.resolve("yolov8n.yaml", options={"wdith": 1})
    with pytest.raises(ModelNotFound, match=r"`options` are for"):
        zoo.resolve("yolov8n.pt", options={"width": 0.5})
    with pytest.raises(ModelNotFound, match="no model named 'ultralytics'"):
        zoo.resolve("ultralytics")


@pytest.fixture
def offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No network and no settings of the user; both reach the child process."""
    monkeypatch.setenv("YOLO_OFFLINE", "true")
    monkeypatch.setenv("YOLO_CONFIG_DIR", str(tmp_path / "ultralytics"))


def made(name: str, store: ArtifactStore, options: dict[str, Any] | None = None) -> Artifact:
    """The network of a yaml, exported by our own step."""
    spec = zoo.resolve(name, imgsz=SIDE, options=options or {})
    # The steps of a network: without options a yaml is exported by ultralytics itself.
    request = VariantRequest(spec, recipes.get("fp32"), host_isa(), as_net=True)
    return build(request, store, lambda _line: None)


def exported(net: Artifact, path: Path) -> onnx.ModelProto:
    from models.nets.net import load_net  # noqa: PLC0415 - torch may be absent
    from models.steps.export_net import export_onnx  # noqa: PLC0415 - as above

    export_onnx(load_net(net.path), path, 17)
    return onnx.load(str(path))


def answer(path: Path) -> np.ndarray:
    images = np.random.default_rng(0).random((1, 3, SIDE, SIDE), dtype=np.float32)
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return np.asarray(session.run(None, {"images": images})[0])


@needs_extra
@pytest.mark.torch
@pytest.mark.slow
@pytest.mark.long
@pytest.mark.timeout(1200)
@pytest.mark.usefixtures("offline")
@pytest.mark.parametrize(
    ("name", "parameters", "head"),
    [
        ("yolov3-tiny.yaml", 12_173_248, 20),
        ("yolov5n.yaml", 2_654_816, 24),
        ("yolov8n.yaml", 3_157_200, 22),
        ("yolov9t.yaml", 2_128_720, 22),
        ("yolov10n.yaml", 2_775_520, 23),
        ("yolo11n.yaml", 2_624_080, 23),
        ("yolo12n.yaml", 2_602_288, 21),
        ("yolo26n.yaml", 2_572_280, 23),
    ],
)
def test_a_network_computes_what_ultralytics_exports(
    tmp_path: Path, name: str, parameters: int, head: int
) -> None:
    """Same weights, same output as their exporter's, their node names, every layer in a section."""
    store = ArtifactStore(tmp_path / "store")
    net = made(name, store)
    assert net.manifest.parameters == parameters
    path = tmp_path / "ours.onnx"
    model = exported(net, path)
    spec = zoo.resolve(name, imgsz=SIDE)
    theirs = build(VariantRequest(spec, recipes.get("fp32"), host_isa()), store, lambda _line: None)
    assert np.abs(answer(path) - answer(theirs.path)).max() < 1e-3
    metadata = {entry.key: entry.value for entry in model.metadata_props}
    patterns = json.loads(metadata["sections"])
    assert list(patterns) == ["backbone", "neck", "head"]
    learned = [node.name for node in model.graph.node if node.op_type == "Conv"]
    for node in learned:
        assert sum(any(fnmatchcase(node, p) for p in known) for known in patterns.values()) == 1
    assert any(fnmatchcase(node, f"/model.{head}/*") for node in learned)
    decode = decode_nodes(model.graph)
    assert all(node.startswith(f"/model.{head}/") for node in decode)
    kept = [node for node in decode if node in learned]
    assert all("/dfl/" in node for node in kept)


@needs_extra
@pytest.mark.torch
@pytest.mark.slow
@pytest.mark.long
@pytest.mark.timeout(1200)
@pytest.mark.usefixtures("offline")
def test_the_redesigned_yolov9_is_at_most_128_channels_wide(tmp_path: Path) -> None:
    """yolov9c capped at 128: no convolution is wider; 5.9 of 25.6 M parameters are left."""
    net = made("yolov9c.yaml", ArtifactStore(tmp_path / "store"), {"max_channels": 128})
    model = exported(net, tmp_path / "capped.onnx")
    weights = {tensor.name: tensor.dims for tensor in model.graph.initializer}
    widths = [weights[n.input[1]][0] for n in model.graph.node if n.op_type == "Conv"]
    assert max(widths) == 128
    assert net.manifest.parameters == 5_905_792


@needs_extra
@pytest.mark.torch
@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.usefixtures("offline")
def test_other_tasks_are_refused_as_networks_in_words(tmp_path: Path) -> None:
    """A segmentation yaml names what it is and which recipes work for it."""
    with pytest.raises(BuildFailed, match=r"only detectors can; use recipes that work on files"):
        made("yolov8n-seg.yaml", ArtifactStore(tmp_path / "store"))


@needs_extra
@pytest.mark.torch
@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.usefixtures("offline")
def test_trained_weights_become_a_trained_network(tmp_path: Path) -> None:
    """A .pt file gives its weights and its class names, and says that it is trained."""
    import torch  # noqa: PLC0415 - may be absent

    from models.nets.arch import read_header  # noqa: PLC0415 - beside torch
    from models.nets.net import load_net  # noqa: PLC0415 - as above
    from models.nets.ultra import library  # noqa: PLC0415 - as above

    module = library("nn.tasks").DetectionModel("yolov8n.yaml", nc=2, verbose=False)
    module.names = {0: "square", 1: "circle"}
    path = tmp_path / "mine.pt"
    torch.save({"model": module.half(), "train_args": {}, "epoch": -1}, path)
    spec = zoo.resolve(str(path), imgsz=SIDE)
    request = VariantRequest(spec, recipes.get("fp32"), host_isa(), as_net=True)
    net = build(request, ArtifactStore(tmp_path / "store"), lambda _line: None)
    arch = read_header(net.path).arch
    assert (arch.trained, arch.class_names) == (True, ("square", "circle"))
    found = load_net(net.path).module.state_dict()
    for name, value in module.float().state_dict().items():
        assert torch.equal(found[name], value), name
