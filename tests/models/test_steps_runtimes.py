"""Networks exported for other runtimes: the same function, a manifest, no trace of this machine."""

from __future__ import annotations

import importlib.util
import subprocess
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import numpy as np
import pytest
from support import convnet

from agent.runtimes import runtime
from agent.wire import RuntimeOptions
from models import recipes, steps
from models.errors import ExtraMissing
from models.nets.arch import Arch
from models.spec import CalibrationSpec, ModelSource, ModelSpec
from models.steps import StepInput, StepResult
from models.steps import export_tflite as tflite_step
from models.steps.base import FileInfo

SIZE = 32


def lacks(module: str, extra: str) -> pytest.MarkDecorator:
    reason = f"{module} is not installed (the extra '{extra}')"
    return pytest.mark.skipif(importlib.util.find_spec(module) is None, reason=reason)


_NO_TORCH = lacks("torch", "models")
_NO_CONVERTER = lacks("litert_torch", "litert-convert")
Test = TypeVar("Test", bound=Callable[..., None])


def with_torch(test: Test) -> Test:
    return pytest.mark.torch(_NO_TORCH(test))


def with_converter(test: Test) -> Test:
    return pytest.mark.convert(_NO_CONVERTER(test))


def arch(family: str, width: float) -> Arch:
    options = {"unet": {"num_classes": 1, "width": width}, "tinydet": {"num_classes": 6}}[family]
    names = tuple(f"class{index}" for index in range(options["num_classes"]))  # type: ignore[arg-type]
    return Arch(family=family, options=options, imgsz_px=SIZE, class_names=names)


def given(
    folder: Path, family: str, step: str, *, width: float = 0.25, **params: object
) -> StepInput:
    from models.nets.net import build_net, save_net  # noqa: PLC0415 - needs torch

    source = folder / "source.net"
    save_net(build_net(arch(family, width)), source)
    images = []
    for index in range(3):
        path = folder / f"{index}.npy"
        random = np.random.default_rng(index)
        np.save(path, random.random((1, 3, SIZE, SIZE), dtype=np.float32))
        images.append(path)
    (folder / "work").mkdir()
    return StepInput(
        source=source,
        model=ModelSpec("m", ModelSource("net", None, family, None), None, None, None, ()),
        isa="x86_64",
        params=steps.ALL_STEPS[step].params(**params),
        choices={},
        calibration=CalibrationSpec(tuple(images), None, ""),
        work=folder / "work",
        cache=folder,
        log=lambda text: None,
    )


def made(asked: StepInput, step: str) -> StepResult:
    return steps.ALL_STEPS[step].run(asked)


def outputs(result: StepResult, asked: StepInput) -> tuple[np.ndarray, np.ndarray]:
    """What the exported file gives for an input, and what the network itself does."""
    import torch  # noqa: PLC0415 - only where it is there

    from models.nets.net import load_net  # noqa: PLC0415 - as above

    form = result.path.suffix[1:]
    name = {"pt2": "torch", "tflite": "litert"}[form]
    model = runtime(name).load(result.path, form, RuntimeOptions(intra_op_num_threads=1))  # type: ignore[arg-type]
    feed = np.random.default_rng(9).random((1, 3, SIZE, SIZE), dtype=np.float32)
    assert asked.source is not None
    with torch.no_grad():
        exact = load_net(asked.source).module(torch.from_numpy(feed)).numpy()
    return model.infer({"images": feed})[0], exact


@with_torch
@pytest.mark.parametrize("family", ["unet", "tinydet"])
def test_an_archive_computes_what_the_network_does(tmp_path: Path, family: str) -> None:
    """The .pt2 file passes the board's own check and gives the network's outputs."""
    asked = given(tmp_path, family, "export_pt2")
    result = made(asked, "export_pt2")
    found, exact = outputs(result, asked)
    np.testing.assert_allclose(found, exact, atol=2e-3 if family == "tinydet" else 1e-5)
    assert result.info is not None
    assert result.info.inputs["images"].shape == (1, 3, SIZE, SIZE)
    assert result.info.outputs["output"].shape == exact.shape
    assert result.info.parameters > 0
    assert result.info.metadata["task"] == ("detect" if family == "tinydet" else "segment")


@with_torch
def test_batch_norms_are_folded_unless_asked_otherwise(tmp_path: Path) -> None:
    """The exported detector has no batch norm left, and as many as it had where they are kept."""
    asked = given(tmp_path, "tinydet", "export_pt2")
    folded = made(asked, "export_pt2").node_counts
    assert folded is not None
    assert "batch_norm" not in folded
    (tmp_path / "kept").mkdir()
    asked = given(tmp_path / "kept", "tinydet", "export_pt2", fold_batch_norm=False)
    kept = made(asked, "export_pt2").node_counts
    assert kept is not None
    assert kept["batch_norm"] > 20
    assert kept["conv2d"] == folded["conv2d"]


@with_torch
def test_an_archive_names_no_place_of_this_machine(tmp_path: Path) -> None:
    """Neither source files nor folders of this machine are in the archive."""
    result = made(given(tmp_path, "unet", "export_pt2"), "export_pt2")
    with zipfile.ZipFile(result.path) as zipped:
        text = b"".join(zipped.read(name) for name in zipped.namelist())
    assert str(Path(__file__).parents[2]).encode() not in text
    assert str(tmp_path).encode() not in text
    assert b"stack_trace" not in text


@with_converter
@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_tensorflow_lite_file_computes_what_the_network_does(tmp_path: Path) -> None:
    """The .tflite file gives the network's outputs within float32's rounding."""
    asked = given(tmp_path, "unet", "export_tflite")
    result = made(asked, "export_tflite")
    found, exact = outputs(result, asked)
    np.testing.assert_allclose(found, exact, atol=1e-4)
    assert result.info is not None
    assert result.info.inputs["images"].dtype == "float32"
    # Tensors that are equal share a buffer: here the biases, which are still zero.
    assert result.info.weight_bytes == pytest.approx(4 * result.info.parameters, rel=0.01)
    assert result.info.macs == 9_175_040
    assert_sections(result.info, bytes_a_weight=4)


@with_converter
@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("step", ["tflite_int8", "export_tflite"])
def test_quantized_files_are_a_quarter_and_keep_the_decode(tmp_path: Path, step: str) -> None:
    """INT8 weights take a quarter of the bytes; inputs, outputs and decode stay in float."""
    params = {"quantize": "dynamic"} if step == "export_tflite" else {}
    asked = given(tmp_path, "unet", step, **params)
    result = made(asked, step)
    found, exact = outputs(result, asked)
    assert result.info is not None
    assert result.info.weight_bytes < 1.5 * result.info.parameters
    assert result.info.outputs["output_0"].dtype == "float32"
    assert np.abs(found - exact).max() < 0.1
    assert result.node_counts is not None
    assert ("QUANTIZE" in result.node_counts) == (step == "tflite_int8")
    assert_sections(result.info, bytes_a_weight=1)


def assert_sections(info: FileInfo, bytes_a_weight: int) -> None:
    """The U-Net's sections: all parameters, and each its own bytes beside a few small tensors."""
    assert [(part.name, part.macs) for part in info.sections] == [
        ("encoder", 2_580_480), ("bottleneck", 884_736), ("decoder", 5_701_632), ("head", 8_192),
    ]  # fmt: skip
    assert sum(part.parameters for part in info.sections) == info.parameters
    for part in info.sections[:3]:
        assert part.weight_bytes == pytest.approx(bytes_a_weight * part.parameters, rel=0.15)
    told = sum(part.weight_bytes or 0 for part in info.sections)
    assert told == pytest.approx(info.weight_bytes, rel=0.01)


@with_converter
@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_published_u_net_converts(tmp_path: Path) -> None:
    """The U-Net of 1,925,601 parameters becomes a .tflite file that gives its outputs."""
    asked = given(tmp_path, "unet", "export_tflite", width=1.0)
    result = made(asked, "export_tflite")
    found, exact = outputs(result, asked)
    np.testing.assert_allclose(found, exact, atol=1e-4)
    assert result.info is not None
    assert result.info.parameters == 1_925_601
    assert result.path.stat().st_size == pytest.approx(4 * 1_925_601, rel=0.02)
    assert found.std() > 0.01  # an output of one value would agree with anything


@with_converter
@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_detector_with_a_list_of_heads_has_its_sections(tmp_path: Path) -> None:
    """The converter leaves the list out of its names; the heads' bytes are theirs all the same."""
    info = made(given(tmp_path, "tinydet", "export_tflite"), "export_tflite").info
    assert info is not None
    assert [part.name for part in info.sections] == ["backbone", "neck", "head"]
    for part in info.sections:
        assert part.weight_bytes == pytest.approx(4 * part.parameters, rel=0.02)


@pytest.mark.litert
@with_torch
@lacks("ai_edge_litert", "litert")
def test_bytes_are_not_told_where_names_do_not_tell() -> None:
    """A .tflite file whose tensors are not named after the network's modules has no sections."""
    from models.steps import tflite_sections  # noqa: PLC0415 - needs LiteRT and torch

    sections = {"body": ("first",), "head": ("second",)}
    net = convnet.torch_net()
    assert tflite_sections.weight_bytes(convnet.TFLITE, net, sections) is None


@with_torch
def test_a_missing_converter_is_named_with_its_extra(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where litert-torch is not installed the build says which extra brings it."""

    def child(command: list[str], **options: object) -> subprocess.CompletedProcess[str]:
        Path(str(options["cwd"]), "result.json").write_text(
            '{"failed": "import", "error": "No module named litert_torch"}'
        )
        return subprocess.CompletedProcess(command, 0, "", "")

    monkeypatch.setattr(tflite_step.subprocess, "run", child)
    with pytest.raises(ExtraMissing, match="litert-convert"):
        made(given(tmp_path, "unet", "export_tflite"), "export_tflite")


@pytest.mark.parametrize(
    ("name", "runs"),
    [("torch_eager", "torch"), ("litert", "litert"), ("litert_dynamic", "litert"),
     ("litert_int8", "litert")],
)  # fmt: skip
def test_the_shipped_recipes_name_their_runtime(name: str, runs: str) -> None:
    """Each recipe for another runtime says which; only full INT8 needs calibration."""
    recipe = recipes.get(name)
    assert recipe.runtime == runs
    assert recipe.needs_calibration == (name == "litert_int8")
