"""Ranges from calibration data: what the methods cut, and how much memory they take."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper
from onnxruntime.quantization import calibrate as ortc
from support import nets

from models import recipes
from models.build import VariantRequest, build, calibration
from models.errors import BuildFailed
from models.steps.calibration_ranges import cached_ranges, cut, entropy_cut, histogram
from models.store import Artifact, ArtifactStore


def silent(_text: str) -> None:
    pass


@pytest.fixture
def store(tmp_path: Path) -> ArtifactStore:
    return ArtifactStore(tmp_path / "store")


def with_method(request: VariantRequest, method: str) -> VariantRequest:
    return dataclasses.replace(request, recipe=recipes.get(f"int8_ptq_{method}"))


def scale_of(artifact: Artifact, tensor: str) -> float:
    """The step between two values of an activation."""
    tensors = {t.name: t for t in onnx.load(artifact.path).graph.initializer}
    return float(numpy_helper.to_array(tensors[f"{tensor}_scale"]))


# ---------------------------------------------------------------- where histograms are cut


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("one_sided", [False, True])
def test_the_entropy_cut_is_onnx_runtimes(seed: int, one_sided: bool) -> None:
    """On the same histogram the same bins are kept as by ONNX Runtime's own search."""
    values = np.random.default_rng(seed).standard_t(3, 20_000).astype(np.float32)
    values = np.maximum(values, 0) if one_sided else values
    limit, bins, levels = float(np.abs(values).max()), 256, 64
    counts = histogram(values, limit, bins)
    edges = np.linspace(-limit, limit, bins + 1, dtype=np.float32)
    collector = ortc.HistogramCollector("entropy", False, bins, levels, 99.999, "same")
    kept = (counts, edges, np.float32(-limit), np.float32(limit), np.float32(limit))
    low, high = collector.get_entropy_threshold(kept, levels)
    start, end = entropy_cut(counts, levels)
    assert (edges[start], edges[end]) == (low, high)


def test_a_percentile_leaves_out_what_is_rare() -> None:
    """Of 100,000 even values 1 % go, half at either end; a lone outlier sets no range."""
    values = np.append(np.linspace(-1, 1, 100_000), [50.0]).astype(np.float32)
    low, high = cut(histogram(values, 50.0, 2048), 50.0, "percentile", 99.99)
    assert -1.05 < low <= -0.99
    assert 0.99 <= high < 1.1
    low, high = cut(histogram(values[:-1], 1.0, 2048), 1.0, "percentile", 99.0)
    assert (low, high) == (pytest.approx(-0.99, abs=0.002), pytest.approx(0.99, abs=0.002))


def test_histograms_count_every_value() -> None:
    """Values at the limits, and those that rounding pushes past them, are in the last bins."""
    values = np.array([-2, -2, -0.01, 0.01, 1.99, 2], np.float32)
    assert histogram(values, 2.0, 4).tolist() == [2, 1, 1, 2]
    noise = np.random.default_rng(0).normal(size=9_999).astype(np.float32)
    assert histogram(noise, float(np.abs(noise).max()), 7).sum() == 9_999


# ---------------------------------------------------------------- the step with each method


@pytest.mark.parametrize("method", ["entropy", "percentile"])
def test_methods_narrow_a_range_with_outliers(
    tmp_path: Path, store: ArtifactStore, method: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Rare extreme values widen the input's range under minmax and less under the others."""
    request = nets.request(tmp_path)
    assert request.calibration is not None
    for seed, path in enumerate(request.calibration.images):
        image = np.random.default_rng(seed).normal(size=(1, 3, nets.SIDE, nets.SIDE)).clip(0)
        np.save(path, image.astype(np.float32))
    spec = calibration(request.calibration.images, request.model.prep)
    request = dataclasses.replace(request, calibration=spec)
    plain = scale_of(build(request, store, silent), "images")
    recipe = recipes.get(f"int8_ptq_{method}")
    step = dataclasses.replace(
        recipe.steps[0], params=recipe.steps[0].params | {"percentile": 99.0}
    )
    chosen = dataclasses.replace(request, recipe=dataclasses.replace(recipe, steps=(step,)))
    lines: list[str] = []
    narrow = scale_of(build(chosen, store, lines.append), "images")
    assert narrow < 0.9 * plain
    assert any("histograms" in line for line in lines)
    assert capsys.readouterr().out == ""


def test_a_nearly_constant_tensor_keeps_its_extremes(tmp_path: Path, store: ArtifactStore) -> None:
    """Where a percentile would leave an empty range, the extremes are used, and that is said."""
    request = nets.request(tmp_path)
    assert request.calibration is not None
    for path in request.calibration.images:
        image = np.zeros((1, 3, nets.SIDE, nets.SIDE), np.float32)
        image[0, 0, 0, 0] = 1e-3
        np.save(path, image)
    spec = calibration(request.calibration.images, request.model.prep)
    lines: list[str] = []
    chosen = with_method(dataclasses.replace(request, calibration=spec), "percentile")
    params = chosen.recipe.steps[0].params | {"percentile": 60.0}
    step = dataclasses.replace(chosen.recipe.steps[0], params=params)
    chosen = dataclasses.replace(chosen, recipe=dataclasses.replace(chosen.recipe, steps=(step,)))
    artifact = build(chosen, store, lines.append)
    assert np.isfinite(scale_of(artifact, "images"))
    assert any("their lowest and highest values are used" in line for line in lines)


def test_tensors_that_are_not_finite_are_named(tmp_path: Path, store: ArtifactStore) -> None:
    """A model that overflows on the calibration data is refused with the tensor's name."""
    path = nets.save(
        tmp_path / "net.onnx",
        [
            helper.make_node("Exp", ["images"], ["e"], name="exp"),
            helper.make_node("Conv", ["e", "w"], ["y"], name="conv"),
        ],
        [numpy_helper.from_array(np.ones((4, 3, 1, 1), np.float32), "w")],
        inputs={"images": (1, 3, nets.SIDE, nets.SIDE)},
        outputs={"y": (1, 4, nets.SIDE, nets.SIDE)},
    )
    request = nets.request(tmp_path)
    assert path.name == "net.onnx"
    assert request.calibration is not None
    for file in request.calibration.images:
        np.save(file, np.full((1, 3, nets.SIDE, nets.SIDE), 1000, np.float32))
    spec = calibration(request.calibration.images, request.model.prep)
    params = request.recipe.steps[0].params | {"exclude": []}
    step = dataclasses.replace(request.recipe.steps[0], params=params)
    recipe = dataclasses.replace(request.recipe, steps=(step,))
    with pytest.raises(BuildFailed, match=r"step int8_ptq: calibration: .* not finite .*\(e, y\)"):
        build(dataclasses.replace(request, recipe=recipe, calibration=spec), store, silent)


# ---------------------------------------------------------------- what is kept


def tensors_data() -> Any:
    data = ortc.TensorData(lowest=np.float32(-1), highest=np.float32(2))
    return ortc.TensorsData(ortc.CalibrationMethod.MinMax, {"t": data})


def test_ranges_are_computed_once_and_again_when_damaged(tmp_path: Path) -> None:
    """The second caller reads what the first wrote; a damaged file is written anew."""
    calls: list[int] = []

    def compute() -> Any:
        calls.append(1)
        return tensors_data()

    for _ in range(2):
        path = cached_ranges(tmp_path, ("a", "b"), compute, silent)
    assert len(calls) == 1
    path.write_text(path.read_text()[:-10])
    assert cached_ranges(tmp_path, ("a", "b"), compute, silent) == path
    assert len(calls) == 2
    assert json.loads(path.read_text())["data"].keys() == {"t"}
    assert cached_ranges(tmp_path, ("a", "c"), compute, silent) != path
    assert len(calls) == 3


# ---------------------------------------------------------------- memory

PEAK = """
import sys
from pathlib import Path
from models import zoo
from models.build import VariantRequest, build, calibration
from models.recipes import get
from models.store import ArtifactStore
folder, method, count = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
model = zoo.resolve("tinydet")
images = sorted((folder / "c").glob("*.npy"))[:count]
spec = calibration(images, model.prep)
recipe = get("int8_ptq" if method == "minmax" else f"int8_ptq_{method}")
request = VariantRequest(model, recipe, "x86_64", spec)
build(request, ArtifactStore(folder / f"{method}{count}"), lambda text: None)
status = Path("/proc/self/status").read_text()  # ru_maxrss begins at the peak of the parent
print(status.split("VmHWM:")[1].split()[0])
"""


@pytest.mark.slow
@pytest.mark.parametrize("method", ["minmax", "entropy", "percentile"])
def test_memory_does_not_grow_with_the_data(tmp_path: Path, method: str) -> None:
    """Calibrating tinydet on 64 images peaks below 400 MB, and at most 5 % above 32 images.

    All tensors of one image are 13 MB in float32: keeping those of 32 more would take 400 MB.
    """
    nets.tensors(tmp_path / "c", (1, 3, 160, 160), 64)

    def peak_mb(count: int) -> float:
        arguments = [sys.executable, "-c", PEAK, str(tmp_path), method, str(count)]
        done = subprocess.run(arguments, capture_output=True, text=True, check=True)
        return int(done.stdout) / 1024

    small, large = peak_mb(32), peak_mb(64)
    assert large < 400
    assert large < 1.05 * small
