"""Names and paths of models, and what is said of wrong ones."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest
from support import nets

from agent.wire import DetectHead, ImagePrep
from models import zoo
from models.errors import ExtraMissing, ModelNotFound, ModelUnreadable, ShapeNeeded
from models.nets.options import ACTIVATIONS
from models.spec import file_digest


@pytest.fixture
def extra(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if the extra `models` were installed."""
    monkeypatch.setattr(importlib.util, "find_spec", lambda _name: object())


def test_the_shipped_detector_resolves() -> None:
    """`tinydet` is a trained detector with classes, a letterbox and a head."""
    spec = zoo.resolve("tinydet")
    assert (spec.name, spec.task, spec.trained, spec.note) == ("tinydet", "detect", True, None)
    assert spec.prep == ImagePrep(height=160, width=160)
    assert spec.head is not None
    assert spec.head.decoder == "yolo_v8"
    assert spec.head.num_classes == len(spec.class_names)
    assert spec.shapes == {}


def test_a_detector_of_ones_own_resolves(tmp_path: Path) -> None:
    """An .onnx file with detection metadata is complete without any option."""
    path = nets.detector(tmp_path / "mine.onnx")
    spec = zoo.resolve(str(path))
    assert (spec.name, spec.task) == ("mine", "detect")
    assert spec.head == DetectHead(decoder="yolo_v8", num_classes=2)
    assert spec.class_names == nets.NAMES
    assert (spec.source.kind, spec.source.path) == ("onnx", path)
    assert spec.source.sha256 == spec.source.identity == file_digest(path)


def test_a_model_of_unknown_task_resolves_without_accuracy(tmp_path: Path) -> None:
    """Without metadata there is no head and no letterbox, and the note says why."""
    spec = zoo.resolve(str(nets.detector(tmp_path / "net.onnx", metadata={})))
    assert (spec.task, spec.head, spec.prep, spec.class_names) == (None, None, None, ())
    assert "latency only" in (spec.note or "")


def test_relative_paths_are_found_beside_the_inventory_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A relative path means the base directory, then the working directory."""
    base, cwd = tmp_path / "base", tmp_path / "cwd"
    base.mkdir()
    cwd.mkdir()
    monkeypatch.chdir(cwd)
    nets.detector(cwd / "net.onnx", seed=1)
    assert zoo.resolve("net.onnx", base_dir=base).source.path == cwd / "net.onnx"
    nets.detector(base / "net.onnx", seed=2)
    assert zoo.resolve("net.onnx", base_dir=base).source.path == base / "net.onnx"


def test_a_link_keeps_its_own_name(tmp_path: Path) -> None:
    """A model is called as the user calls it, and is of the kind that its name says."""
    (tmp_path / "blobs").mkdir()
    nets.detector(tmp_path / "blobs" / "4f2a")
    (tmp_path / "blobs" / "77aa").write_bytes(b"weights")
    (tmp_path / "door.onnx").symlink_to("blobs/4f2a")
    (tmp_path / "door.pt").symlink_to("blobs/77aa")
    found = zoo.resolve("door.onnx", base_dir=tmp_path)
    assert (found.name, found.source.path) == ("door", tmp_path / "door.onnx")
    trained = zoo.resolve("door.pt", base_dir=tmp_path, need_extra=False)
    assert (trained.name, trained.source.reference) == ("door", "door.pt")


def test_a_dynamic_input_names_the_option_to_type(tmp_path: Path) -> None:
    """The error names the input, its dimensions and a --shape that works as it stands."""
    path = nets.detector(tmp_path / "net.onnx", metadata={}, dims=("batch", 3, "height", "width"))
    with pytest.raises(ShapeNeeded) as caught:
        zoo.resolve(str(path))
    assert "'images'" in str(caught.value)
    assert "(batch, 3, height, width)" in str(caught.value)
    assert "--shape images=1,3,224,224" in str(caught.value)
    spec = zoo.resolve(str(path), shapes={"images": (1, 3, 224, 224)})
    assert spec.shapes == {"images": (1, 3, 224, 224)}


def test_known_dimensions_stay_in_the_suggestion(tmp_path: Path) -> None:
    """A batch that alone is dynamic is suggested as 1, the rest as the model has it."""
    path = nets.detector(tmp_path / "net.onnx", metadata={}, dims=("batch", 3, 32, 32))
    with pytest.raises(ShapeNeeded, match="--shape images=1,3,32,32"):
        zoo.resolve(str(path))


@pytest.mark.parametrize(
    ("shapes", "said"),
    [
        ({"image": (1, 3, 32, 32)}, "did you mean 'images'"),
        ({"images": (1, 4, 32, 32)}, "does not fit"),
        ({"images": (1, 3, 32)}, "does not fit"),
        ({"images": (0, 3, 32, 32)}, "does not fit"),
    ],
)
def test_wrong_shapes_are_refused(
    tmp_path: Path, shapes: dict[str, tuple[int, ...]], said: str
) -> None:
    """A shape of an unknown input, or against its fixed dimensions, is refused."""
    path = nets.detector(tmp_path / "net.onnx", dims=("batch", 3, 32, 32))
    with pytest.raises(ShapeNeeded, match=said):
        zoo.resolve(str(path), shapes=shapes)


def test_a_dynamic_detector_takes_its_size_from_metadata_or_imgsz(tmp_path: Path) -> None:
    """A dynamic export with imgsz needs no option; imgsz overrides its size."""
    path = nets.detector(tmp_path / "net.onnx", dims=("batch", 3, "height", "width"))
    spec = zoo.resolve(str(path))
    assert spec.shapes == {"images": (1, 3, 32, 32)}
    assert spec.prep == ImagePrep(height=32, width=32)
    spec = zoo.resolve(str(path), imgsz=64)
    assert spec.shapes == {"images": (1, 3, 64, 64)}
    assert spec.prep == ImagePrep(height=64, width=64)


def test_a_fixed_input_keeps_its_size(tmp_path: Path) -> None:
    """Another imgsz cannot be forced on a fixed input; its own is accepted."""
    path = nets.detector(tmp_path / "net.onnx")
    assert zoo.resolve(str(path), imgsz=32).shapes == {}
    with pytest.raises(ShapeNeeded, match="fixed at"):
        zoo.resolve(str(path), imgsz=64)


@pytest.mark.parametrize(
    ("reference", "said"),
    [
        ("yolo8n", "did you mean 'yolov8n'"),
        ("tinydetr", "did you mean 'tinydet'"),
        ("nett.onnx", "did you mean 'net.onnx'"),
        ("sub/none.onnx", "no model file 'sub/none.onnx'"),
        ("yolov8q.pt", "did you mean 'yolov8[nsmlx].pt'"),
        ("yolov8q.yaml", "did you mean 'yolov8[nsmlx].yaml'"),
        ("zzz", "known: tinydet"),
    ],
)
def test_unknown_names_get_the_nearest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, reference: str, said: str
) -> None:
    """A mistyped name or path is answered with the nearest one there is."""
    monkeypatch.chdir(tmp_path)
    nets.detector(tmp_path / "net.onnx")
    with pytest.raises(ModelNotFound, match=said):
        zoo.resolve(reference)


def test_files_of_other_kinds_are_refused(tmp_path: Path) -> None:
    """A .tflite file is not looked into: the message says what is accepted."""
    (tmp_path / "net.tflite").write_bytes(b"x")
    with pytest.raises(ModelUnreadable, match=r"\.onnx, \.pt or \.yaml"):
        zoo.resolve(str(tmp_path / "net.tflite"))


@pytest.mark.usefixtures("extra")
def test_an_ultralytics_name_means_trained_weights() -> None:
    """`yolov8n` is trained, found or downloaded, and known well enough to calibrate for."""
    spec = zoo.resolve("yolov8n")
    assert (spec.name, spec.trained, spec.source.kind) == ("yolov8n", True, "ultralytics")
    assert (spec.source.reference, spec.source.path, spec.source.sha256) == (
        "yolov8n.pt",
        None,
        None,
    )
    assert spec.prep == ImagePrep(height=640, width=640)
    assert spec.head is None
    assert "download" in (spec.note or "")


@pytest.mark.usefixtures("extra")
def test_local_weights_are_found_and_digested(tmp_path: Path) -> None:
    """`yolov8n` is the file yolov8n.pt beside the inventory where there is one."""
    weights = tmp_path / "yolov8n.pt"
    weights.write_bytes(b"weights")
    for reference in ("yolov8n", "yolov8n.pt"):
        spec = zoo.resolve(reference, base_dir=tmp_path)
        assert spec.source.path == weights
        assert spec.source.sha256 == file_digest(weights)
        assert spec.note is None


@pytest.mark.usefixtures("extra")
@pytest.mark.parametrize(
    ("reference", "meant"),
    [
        ("yolov5n", "yolov5nu"),
        ("yolov5x.pt", "yolov5xu"),
        ("yolov3.pt", "yolov3u"),
        ("yolov3-tiny.pt", "yolov3-tinyu"),
        ("yolov3-spp", "yolov3-sppu"),
    ],
)
def test_old_names_mean_the_weights_that_ultralytics_has(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, reference: str, meant: str
) -> None:
    """The v3 and v5 weights end in `u`, with and without the letter, found or downloaded."""
    monkeypatch.chdir(tmp_path)
    spec = zoo.resolve(reference)
    assert (spec.name, spec.source.reference, spec.trained) == (meant, f"{meant}.pt", True)
    assert spec.source.identity == zoo.resolve(f"{meant}.pt").source.identity
    assert f"{meant}.pt" in (spec.note or "")
    (tmp_path / f"{meant}.pt").write_bytes(b"weights")
    assert zoo.resolve(reference).source.path == tmp_path / f"{meant}.pt"
    (tmp_path / "mine").mkdir()
    with pytest.raises(ModelNotFound, match="no model file"):
        zoo.resolve(f"mine/{Path(reference).stem}.pt")


def test_the_first_yolov3_keeps_its_name() -> None:
    """`yolov3` without an ending is the original network, which ultralytics does not have."""
    for name in ("yolov3", "yolov3-tiny"):
        assert zoo.resolve(name, need_extra=False).source.kind == "net"
    for name in ("yolov5n.yaml", "yolov3.yaml"):
        spec = zoo.resolve(name, need_extra=False)
        assert (spec.name, spec.trained) == (name, False)


@pytest.mark.usefixtures("extra")
def test_a_yaml_is_an_untrained_network() -> None:
    """`yolov8n.yaml` keeps its ending in its name, is untrained and says so."""
    spec = zoo.resolve("yolov8n.yaml", imgsz=320)
    assert (spec.name, spec.trained) == ("yolov8n.yaml", False)
    assert spec.prep == ImagePrep(height=320, width=320)
    assert "untrained" in (spec.note or "")


@pytest.mark.usefixtures("extra")
def test_sources_that_differ_have_different_identities(tmp_path: Path) -> None:
    """Trained, untrained and local weights never share a build."""
    (tmp_path / "yolov8n.pt").write_bytes(b"weights")
    references = {
        zoo.resolve("yolov8n").source.identity,
        zoo.resolve("yolov8n.yaml").source.identity,
        zoo.resolve("yolov8n", base_dir=tmp_path).source.identity,
    }
    assert len(references) == 3


@pytest.mark.parametrize("reference", ["yolov8n", "yolo11n.pt", "yolo26s.yaml"])
def test_the_missing_extra_is_named_with_its_command(
    monkeypatch: pytest.MonkeyPatch, reference: str
) -> None:
    """Without torch and ultralytics the error has the pip command, and nothing is installed."""
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == "ultralytics" else object()
    )
    with pytest.raises(ExtraMissing, match=r"needs ultralytics; install .*pip install"):
        zoo.resolve(reference)


def test_resolving_imports_neither_torch_nor_onnxruntime(tmp_path: Path) -> None:
    """Inspecting a user's model needs onnx only."""
    path = nets.detector(tmp_path / "net.onnx")
    code = (
        "import sys; from models import zoo; zoo.resolve(sys.argv[1]); "
        "print({'torch', 'ultralytics', 'onnxruntime'} & sys.modules.keys())"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(path)], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "set()"


def test_names_begin_with_the_shipped_ones() -> None:
    """The list of names starts with what needs no download, without doubles."""
    assert zoo.names()[0] == "tinydet"
    assert len(set(zoo.names())) == len(zoo.names())


def test_compound_scaling_of_networks_of_ours() -> None:
    """Where there is a width it grows with the resolution, unless an input size is given."""
    base = zoo.resolve("unet", need_extra=False)
    grown = zoo.resolve("unet", options={"compound": 2, "width": 0.5}, need_extra=False)
    assert base.source.options["width"] == 1.0
    assert grown.source.options == {"num_classes": 1, "width": pytest.approx(0.5 * 1.1**2)}
    assert (base.source.imgsz_px, grown.source.imgsz_px) == (256, 352)  # 256 * 1.15^2 = 338.6
    own = zoo.resolve("yolov3", options={"compound": 1}, imgsz=320, need_extra=False)
    assert own.source.imgsz_px == 320
    assert own.source.options["width"] == pytest.approx(1.1)


@pytest.mark.parametrize(
    ("reference", "options", "words"),
    [
        ("tinydet", {"compound": 1}, "tinydet: no option 'compound'.*it has num_classes"),
        ("yolov8n", {"compound": 1}, "`options` are for the networks .* ultralytics .yaml files"),
        ("unet", {"compound": 0}, "option compound: 0 is no number above 0"),
        ("unet", {"compound": 1, "width": "half"}, "option width: 'half' is not a number above 0"),
        ("unet", {"compund": 1}, "did you mean 'compound'"),
        ("unet", {"depth": 2}, "unet: no option 'depth'.*it has num_classes, width, compound"),
    ],
)
def test_scaling_what_has_no_scale_is_refused(
    reference: str, options: dict[str, object], words: str
) -> None:
    """A network that cannot be scaled so says what it has instead."""
    with pytest.raises(ModelNotFound, match=words):
        zoo.resolve(reference, options=options, need_extra=False)


@pytest.mark.usefixtures("extra")
@pytest.mark.parametrize(
    ("reference", "options", "words"),
    [
        ("unet", {"width": -0.5}, "width: -0.5 is not a number above 0"),
        ("unet", {"num_classes": 1.5}, "num_classes: 1.5 is not a whole number above 0"),
        ("yolov3", {"num_classes": True}, "not a whole number above 0; without it there is 80"),
        ("yolov3", {"activation": "gelu"}, "'gelu' is not one of leaky_relu, relu, silu"),
        ("yolov3", {"anchor_scale": "half"}, "anchor_scale: 'half' is not a number"),
    ],
)
def test_an_option_that_makes_no_network_is_refused(
    reference: str, options: dict[str, object], words: str
) -> None:
    """A value that the network could not be built with is refused when it is named."""
    with pytest.raises(ModelNotFound, match=words):
        zoo.resolve(reference, options=options)


@pytest.mark.usefixtures("extra")
@pytest.mark.parametrize(
    ("reference", "imgsz", "words"),
    [
        ("yolov3", 33, "33 is no multiple of 32; take 32 or 64"),
        ("unet", 100, "100 is no multiple of 8; take 96 or 104"),
        ("tinydet", 16, "16 is no multiple of 32; take 32"),
        ("yolov8n", 100, "100 is no multiple of 32; take 96 or 128"),
        ("yolov8n-p6.yaml", 96, "96 is no multiple of 64; take 64 or 128"),
    ],
)
def test_an_input_size_that_strides_do_not_divide_is_refused(
    reference: str, imgsz: int, words: str, tmp_path: Path
) -> None:
    """It is not rounded in silence, and the nearest sizes are told."""
    (tmp_path / "yolov8n-p6.yaml").write_text("nc: 80\n")
    options = {"num_classes": 3} if reference == "tinydet" else None  # the network, not its file
    with pytest.raises(ShapeNeeded, match=words):
        zoo.resolve(reference, imgsz=imgsz, options=options, base_dir=tmp_path)


@pytest.mark.torch
def test_the_activations_are_those_that_the_network_knows() -> None:
    """What is refused early is what could not be built."""
    pytest.importorskip("torch", reason="networks need torch: install the extra 'models'")
    from models.nets.darknet_layers import _ACTIVATIONS  # noqa: PLC0415 - needs torch

    assert sorted(_ACTIVATIONS) == sorted(ACTIVATIONS)
