"""Step `ort_format`: an ONNX file to ONNX Runtime's own format, optimized for its target.

The same settings as `onnxruntime.tools.convert_onnx_models_to_ort` with the optimization style
`Fixed`: such a file is not optimized again when it is loaded. So what the target needs has to
be decided here: INT8 fusions as on Arm (`session.qdqisint8allowed`), and no NCHWc layout unless
the target is a CPU like this one.
"""

from __future__ import annotations

import onnx
import onnxruntime

from models.steps.base import StepInput, StepResult
from models.steps.graph import count_ops
from models.steps.kinds import PLAIN_LAYOUT


def run(given: StepInput) -> StepResult:
    """Convert the source; the node counts are those of the very graph that was saved."""
    target = given.work / "model.ort"
    counted = given.work / "counted.onnx"
    _save(given, str(target), "ORT")
    _save(given, str(counted), "ONNX")
    return StepResult(target, count_ops(onnx.load(str(counted)).graph))


def _save(given: StepInput, target: str, kind: str) -> None:
    """Optimize the source for the target and save it; the session itself is not used."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.optimized_model_filepath = target
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
    options.add_session_config_entry("session.save_model_format", kind)
    arm = given.choices["target"] == "arm"
    plain = given.choices["layout"] == PLAIN_LAYOUT
    options.add_session_config_entry("session.qdqisint8allowed", "1" if arm else "0")
    onnxruntime.InferenceSession(
        str(given.source),
        options,
        providers=["CPUExecutionProvider"],
        disabled_optimizers=["NchwcTransformer"] if plain else None,
    )
