"""The range of every tensor of a model over calibration data, in bounded memory.

ONNX Runtime's own histogram calibrators keep all tensors of several inputs at once (about 2 GB
for eight images of yolov8n at 640 px), start each histogram at the first input's range and let
it grow with later ones, and fail on a tensor that was constant at first. Here two passes take
one input at a time: the first finds each tensor's extremes, the second fills a histogram of
fixed width between them. Where to cut a histogram is ONNX Runtime's own arithmetic.

Ranges depend on the model and the data only, not on what is quantized with them: they are kept,
and every recipe and target that quantizes the same model takes them from there.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final, Literal

import numpy as np
from numpy.typing import NDArray
from onnxruntime import quantization as ortq
from onnxruntime.quantization import calibrate as ortc
from onnxruntime.quantization.quant_utils import smooth_distribution

from models.errors import BuildFailed
from models.locking import locked
from models.steps.base import Log
from models.steps.calibrate import Reader

Array = NDArray[Any]
Ends = tuple[float, float]
"""Lowest and highest value."""

Method = Literal["minmax", "entropy", "percentile"]

METHODS: Final = {
    "minmax": ortq.CalibrationMethod.MinMax,
    "entropy": ortq.CalibrationMethod.Entropy,
    "percentile": ortq.CalibrationMethod.Percentile,
}
_CHUNK: Final = 16
"""Inputs whose extremes are kept before they are merged; a few numbers for each tensor."""
_BINS: Final[dict[str, int]] = {"entropy": 512, "percentile": 2048}
"""Bins over -T..T, where T is the tensor's largest magnitude. The search for the entropy's cut
is quadratic in them."""
_LEVELS: Final = 256
"""What INT8 can tell apart."""
_NAMED: Final = 4


def cached_ranges(
    folder: Path, parts: Sequence[str], compute: Callable[[], ortc.TensorsData], log: Log
) -> Path:
    """The file of ranges for what `parts` name, computed under a lock where there is none yet.

    Several builds at once compute them once. A damaged file is computed again.
    """
    name = hashlib.sha256(json.dumps(list(parts)).encode()).hexdigest()
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}.json"
    with locked(folder / f"{name}.lock"):
        if _readable(path):
            log("calibration: the ranges of an earlier build on the same data")
        else:
            path.unlink(missing_ok=True)
            ortc.save_tensors_data(compute(), path)
    return path


def ranges(
    model: Path, reader: Reader, method: Method, percentile: float, work: Path, log: Log
) -> ortc.TensorsData:
    """Lowest and highest value of each tensor that can be quantized, cut as `method` says.

    `work` is a scratch folder. Raises BuildFailed where a tensor is not finite, DataError for
    unusable calibration files.
    """
    extremes = _extremes(model, reader, work)
    found = dict(extremes)
    if method != "minmax":
        found |= _without_outliers(model, reader, extremes, method, percentile, work, log)
    data = {
        name: ortc.TensorData(lowest=np.float32(low), highest=np.float32(high))
        for name, (low, high) in found.items()
    }
    return ortc.TensorsData(METHODS[method], data)


def _without_outliers(
    model: Path,
    reader: Reader,
    extremes: dict[str, Ends],
    method: Method,
    percentile: float,
    work: Path,
    log: Log,
) -> dict[str, Ends]:
    """The second pass: narrower ranges, for the tensors where the method leaves any."""
    limits = {name: max(-low, high) for name, (low, high) in extremes.items()}
    counts = _histograms(model, reader, _BINS[method], limits, work)
    log(f"cutting {len(counts)} histograms by {method}")
    found, fallen = {}, []
    for name, count in counts.items():
        cut_low, cut_high = cut(count, limits[name], method, percentile)
        low, high = max(cut_low, extremes[name][0]), min(cut_high, extremes[name][1])
        if (high - low) * _LEVELS >= extremes[name][1] - extremes[name][0]:
            found[name] = (low, high)
        else:
            fallen.append(name)
    if fallen:
        log(
            f"{method} leaves less than one INT8 step to {len(fallen)} of {len(counts)} tensors, "
            "whose values are nearly all equal: their lowest and highest values are used "
            f"({_some(fallen)})"
        )
    return found


def _extremes(model: Path, reader: Reader, work: Path) -> dict[str, Ends]:
    """The first pass; ONNX Runtime's MinMax calibrator in chunks."""
    calibrator = _calibrator(model, "minmax", work)
    for start in range(0, len(reader), _CHUNK):
        reader.set_range(start, start + _CHUNK)
        calibrator.collect_data(reader)
    found = {
        name: (float(data.lowest.item()), float(data.highest.item()))
        for name, data in calibrator.compute_data().items()
    }
    broken = sorted(name for name, ends in found.items() if not np.isfinite(ends).all())
    if broken:
        raise BuildFailed(
            f"calibration: {len(broken)} of {len(found)} tensors are not finite on this data "
            f"({_some(broken)}); is the model trained, and the data what it expects?"
        )
    return found


def _histograms(
    model: Path, reader: Reader, bins: int, limits: dict[str, float], work: Path
) -> dict[str, Array]:
    """Counts over -limit..limit by tensor; those that are zero everywhere have none."""
    session = _calibrator(model, "entropy", work).infer_session
    outputs = [output.name for output in session.get_outputs() if limits.get(output.name, 0) > 0]
    counts: dict[str, Array] = {name: np.zeros(bins, np.int64) for name in outputs}
    reader.set_range(0, len(reader))
    while (feed := reader.get_next()) is not None:
        for name, values in zip(outputs, session.run(outputs, feed), strict=True):
            counts[name] += histogram(values, limits[name], bins)
    return counts


def histogram(values: Array, limit: float, bins: int) -> NDArray[np.int64]:
    """How many values fall into each of `bins` equal bins over -limit..limit.

    Several times faster than numpy's, which sorts out rounding at the edges of bins.
    """
    places = (values.ravel() + np.float32(limit)) * np.float32(bins / (2 * limit))
    return np.bincount(np.clip(places, 0, bins - 1).astype(np.int32), minlength=bins)


def cut(counts: Array, limit: float, method: Method, percentile: float) -> tuple[float, float]:
    """Lowest and highest value that are kept of a histogram over -limit..limit."""
    edges = np.linspace(-limit, limit, counts.size + 1)
    if method == "entropy":
        start, end = entropy_cut(counts, _LEVELS)
    else:
        share = np.cumsum(counts) / counts.sum()
        outside = (100.0 - percentile) / 200.0
        start = int(np.searchsorted(share, outside, side="right"))
        end = int(np.searchsorted(share, 1.0 - outside)) + 1
    return float(edges[start]), float(edges[end])


def entropy_cut(counts: Array, levels: int) -> tuple[int, int]:
    """The bins [start, end) around the middle whose values, in `levels` steps, lose the least.

    The loss is the relative entropy between the histogram, with what is outside at its ends, and
    its version of `levels` steps. Source: S. Migacz, 8-bit Inference with TensorRT, 2017, as in
    ONNX Runtime's `HistogramCollector.get_entropy_threshold`, whose result this is, bin for bin.
    """
    middle = counts.size // 2
    before = np.concatenate(([0], np.cumsum(counts)))
    best, found = np.inf, (0, counts.size)
    for reach in range(levels // 2, middle + 1):
        start, end = middle - reach, min(middle + reach + 1, counts.size)
        inside = counts[start:end]
        whole = inside.copy()
        whole[0] += before[start]
        whole[-1] += before[-1] - before[end]
        loss = _loss(whole, _in_steps(inside, whole != 0, levels))
        if loss < best:
            best, found = loss, (start, end)
    return found


def _in_steps(inside: Array, filled: NDArray[np.bool_], levels: int) -> Array:
    """A histogram whose bins are merged into `levels` and spread again over those in use."""
    width = inside.size // levels
    starts = np.arange(levels) * width
    sums = np.add.reduceat(inside, starts)  # the last one takes in the remainder
    used = filled[: levels * width].reshape(levels, width).sum(axis=1)
    steps = np.where(used > 0, sums // np.maximum(used, 1), 0)
    spread = np.zeros_like(inside)
    spread[: levels * width] = np.repeat(steps, width)
    return spread


def _loss(whole: Array, steps: Array) -> float:
    p, q = smooth_distribution(whole), smooth_distribution(steps)
    return np.inf if p is None or q is None else float(ortc.entropy(p, q))


def _calibrator(model: Path, method: Method, work: Path) -> Any:
    """ONNX Runtime's session over the model with what has to be seen as outputs."""
    kinds = {*ortq.registry.QLinearOpsRegistry, *ortq.registry.QDQRegistry}
    return ortc.create_calibrator(
        model,
        sorted(kinds),
        augmented_model_path=str(work / f"{method}-augmented.onnx"),
        calibrate_method=METHODS[method],
    )


def _readable(path: Path) -> bool:
    try:
        ortc.load_tensors_data(path)
    except (OSError, ValueError, KeyError, TypeError):
        return False
    return True


def _some(names: Sequence[str]) -> str:
    shown = ", ".join(names[:_NAMED])
    return f"{shown} …" if len(names) > _NAMED else shown
