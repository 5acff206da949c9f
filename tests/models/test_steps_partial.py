"""Partial quantization of whole networks: what becomes INT8, in counts and in bytes."""

from __future__ import annotations

import dataclasses
import importlib.util
import json
from pathlib import Path

import onnx
import pytest
from support import nets

from models import recipes, zoo
from models.build import VariantRequest, build, calibration
from models.errors import RecipeError
from models.recipes import Recipe
from models.sections import node_sections
from models.spec import StepSpec
from models.steps.isa import family, host_isa
from models.store import Artifact, ArtifactStore

SIDE = 64
GFLOPS_AT_640 = {"yolov8n": 8.86, "yolov9t": 8.48, "yolov3-tiny": 19.1}
"""ultralytics' own summary, which counts batch norms too; those whose work goes with the area."""
EXTRA = all(importlib.util.find_spec(name) for name in ("torch", "ultralytics", "onnxslim"))
on_x86 = pytest.mark.skipif(family(host_isa()) != "x86_64", reason="counts are of x86-64 kernels")


def silent(_text: str) -> None:
    pass


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> ArtifactStore:
    return ArtifactStore(tmp_path_factory.mktemp("partial") / "store")


def quantized_convs(artifact: Artifact) -> set[str]:
    """Names of the convolutions whose weights come from a DequantizeLinear."""
    graph = onnx.load(artifact.path).graph
    made = {node.output[0] for node in graph.node if node.op_type == "DequantizeLinear"}
    return {n.name for n in graph.node if n.op_type == "Conv" and n.input[1] in made}


@pytest.fixture(scope="module")
def tinydet(tmp_path_factory: pytest.TempPathFactory) -> VariantRequest:
    folder = tmp_path_factory.mktemp("inputs")
    model = zoo.resolve("tinydet")
    spec = calibration(nets.tensors(folder / "c", (1, 3, 160, 160), 2), model.prep)
    return VariantRequest(model, recipes.get("int8_ptq"), host_isa(), spec)


def variant(request: VariantRequest, recipe: str, store: ArtifactStore) -> Artifact:
    return build(dataclasses.replace(request, recipe=recipes.get(recipe)), store, silent)


@on_x86
@pytest.mark.parametrize(
    ("recipe", "convs", "kernels", "size_bytes"),
    [
        ("int8_ptq", 34, {"QLinearAdd": 8, "QLinearConv": 34}, 877_410),
        ("int8_backbone", 17, {"QLinearAdd": 6, "QLinearConv": 17}, 1_391_834),
        ("int8_neck", 5, {"QLinearAdd": 2, "QLinearConv": 5}, 2_956_703),
        ("int8_head", 12, {"QLinearConv": 12}, 2_753_081),
    ],
)
def test_tinydet_in_sections(
    tinydet: VariantRequest,
    store: ArtifactStore,
    recipe: str,
    convs: int,
    kernels: dict[str, int],
    size_bytes: int,
) -> None:
    """Each recipe has the convolutions, the fused kernels and the size that it should have."""
    artifact = variant(tinydet, recipe, store)
    assert len(quantized_convs(artifact)) == convs
    assert artifact.manifest.fused_kernels == kernels
    assert artifact.size_bytes == pytest.approx(size_bytes, rel=0.005)


def test_sections_add_up_to_the_whole(tinydet: VariantRequest, store: ArtifactStore) -> None:
    """The three partial files quantize disjoint layers, and save together what int8_ptq saves."""
    parts = [variant(tinydet, f"int8_{name}", store) for name in ("backbone", "neck", "head")]
    whole, plain = variant(tinydet, "int8_ptq", store), variant(tinydet, "fp32", store)
    chosen = [quantized_convs(part) for part in parts]
    assert sum(len(names) for names in chosen) == len(set().union(*chosen))
    assert set().union(*chosen) == quantized_convs(whole)
    saved = sum(plain.size_bytes - part.size_bytes for part in parts)
    assert saved == pytest.approx(plain.size_bytes - whole.size_bytes, rel=0.01)


def test_one_calibration_serves_every_part(tinydet: VariantRequest, tmp_path: Path) -> None:
    """Recipes and targets that quantize the same model on the same data calibrate it once."""
    store = ArtifactStore(tmp_path / "store")
    lines: list[str] = []
    for recipe, isa in (
        ("int8_ptq", "x86_64"),
        ("int8_head", "x86_64"),
        ("int8_ptq", "aarch64"),
        ("int8_ptq_percentile", "x86_64"),
    ):
        request = dataclasses.replace(tinydet, recipe=recipes.get(recipe), isa=isa)
        build(request, store, lines.append)
    assert sum("calibrated with 2 of 2" in line for line in lines) == 1 + 2
    assert sum("the ranges of an earlier build" in line for line in lines) == 2


def test_a_section_that_is_not_there_names_those_that_are(
    tinydet: VariantRequest, store: ArtifactStore
) -> None:
    """The failed step names itself and the sections of this network; nothing is built."""
    step = StepSpec("int8_ptq", tinydet.recipe.steps[0].params | {"only": ["tail"]})
    request = dataclasses.replace(tinydet, recipe=Recipe("mine", (step,), ""))
    with pytest.raises(
        RecipeError,
        match=r"step int8_ptq: only: no section 'tail' .* it has backbone, neck, head, decode",
    ):
        build(request, store, silent)
    assert list((store.root / "tmp").iterdir()) == []


def test_a_range_of_nodes_of_any_network(tmp_path: Path, store: ArtifactStore) -> None:
    """A network without sections is cut by the names of its nodes."""
    request = nets.request(tmp_path)
    params = request.recipe.steps[0].params | {"only": ["/body/Conv../head/Conv"]}
    mine = Recipe("mine", (StepSpec("int8_ptq", params),), "")
    artifact = build(dataclasses.replace(request, recipe=mine), store, silent)
    assert quantized_convs(artifact) == {"/body/Conv", "/head/Conv"}


@pytest.mark.skipif(not EXTRA, reason="needs the extra `models` (torch, ultralytics)")
@pytest.mark.torch
@pytest.mark.slow
@pytest.mark.timeout(900)  # five builds each, and yolov3-tiny has 12 million parameters
@pytest.mark.parametrize(
    ("name", "first_neck", "head", "options"),
    [
        pytest.param("yolov8n", 10, 22, {}, marks=pytest.mark.long),
        pytest.param("yolo11n", 11, 23, {}, marks=pytest.mark.long),
        pytest.param("yolo26n", 11, 23, {}, marks=pytest.mark.long),
        pytest.param("yolov9t", 10, 22, {}, marks=pytest.mark.long),
        pytest.param("yolov3-tiny", 13, 20, {}, marks=pytest.mark.long),
        # Scaled twins are exported as networks of ours, not by ultralytics itself.
        ("yolov5n", 10, 24, {"width": 0.125}),
        ("yolov10n", 11, 23, {"width": 0.125}),
        ("yolo12n", 9, 21, {"depth": 0.25}),  # its attention takes no narrower layers
    ],
)
def test_every_yolo_is_cut_into_sections(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    first_neck: int,
    head: int,
    options: dict[str, float],
) -> None:
    """Each family is cut where its YAML says; a part quantizes its own layers and no other."""
    monkeypatch.setenv("YOLO_OFFLINE", "true")
    monkeypatch.setenv("YOLO_CONFIG_DIR", str(tmp_path / "ultralytics"))
    store = ArtifactStore(tmp_path / "store")
    spec = zoo.resolve(f"{name}.yaml", imgsz=SIDE, options=options)
    data = calibration(nets.tensors(tmp_path / "c", (1, 3, SIDE, SIDE), 2), spec.prep)
    request = VariantRequest(spec, recipes.get("int8_ptq"), host_isa(), data)
    plain = variant(request, "fp32", store)
    patterns = json.loads(plain.manifest.metadata["sections"])
    assert patterns["neck"][0] == f"/model.{first_neck}/*"
    assert patterns["head"][0] == f"/model.{head}/*"
    figures = plain.manifest.figures
    assert figures is not None
    assert figures.flops is not None
    if name in GFLOPS_AT_640:
        scaled = figures.flops / 1e9 * (640 / SIDE) ** 2
        assert scaled == pytest.approx(GFLOPS_AT_640[name], rel=0.035)
    sections = node_sections(onnx.load(plain.path))
    whole = quantized_convs(variant(request, "int8_ptq", store))
    assert len(whole) > 10
    for section in ("backbone", "neck", "head"):
        part = quantized_convs(variant(request, f"int8_{section}", store))
        assert part == {conv for conv in whole if sections[conv] == section}
        assert part
