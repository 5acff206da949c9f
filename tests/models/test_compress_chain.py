"""Steps that change a network, one after the other, through the builder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch", reason="networks need torch: install the extra 'models'")
pytest.importorskip("torch_pruning", reason="pruning needs torch-pruning: the extra 'models'")

import onnxruntime  # noqa: E402 - after the skip

from models import recipes  # noqa: E402
from models.build import VariantRequest, build  # noqa: E402
from models.data import DataSpec  # noqa: E402
from models.data.training import training_spec  # noqa: E402
from models.recipes import Recipe, parse_steps  # noqa: E402
from models.spec import ModelSource, ModelSpec  # noqa: E402
from models.steps.base import Step, StepInput, StepResult  # noqa: E402
from models.store import ArtifactStore  # noqa: E402

pytestmark = [pytest.mark.torch, pytest.mark.slow]

SHORT = {"epochs": 1, "batch": 4, "val_images": 0, "amp": "off"}
CHAIN = [
    {"step": "prune", "ratio": 0.5, "round_to": 4},
    {"step": "finetune", **SHORT},
    {"step": "qat", **SHORT},
    {"step": "export_int8"},
    {"step": "ort_format"},
]
STEPS = ["create", "prune", "finetune", "qat", "export_int8", "ort_format"]


def wanted(folder: Path, isa: str = "x86_64-vnni") -> VariantRequest:
    source = ModelSource(
        "net", None, "unet", None, imgsz_px=32, options={"num_classes": 1, "width": 0.25}
    )
    model = ModelSpec(
        name="small", source=source, task=None, head=None, prep=None, class_names=("blob",)
    )
    recipe = Recipe("chain", parse_steps(CHAIN, "chain"), "all of them")
    training = training_spec(DataSpec("blobs", split="train"), None, 8, folder)
    return VariantRequest(model, recipe, isa, training=training)


@pytest.fixture
def ran(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The steps that really ran, in order; `broken` in it makes that step fail."""
    names: list[str] = []
    real = Step.run

    def run(step: Step, given: StepInput) -> StepResult:
        if f"broken {step.name}" in names:
            raise KeyboardInterrupt
        names.append(step.name)
        return real(step, given)

    monkeypatch.setattr(Step, "run", run)
    return names


def test_a_chain_is_built_once_and_goes_on_where_it_stopped(tmp_path: Path, ran: Any) -> None:
    """An interrupted chain goes on from its last finished step, and nothing ever runs twice."""
    store = ArtifactStore(tmp_path / "store")
    ran.append("broken qat")
    with pytest.raises(KeyboardInterrupt):
        build(wanted(tmp_path), store, lambda _text: None)
    assert ran == ["broken qat", "create", "prune", "finetune"]
    ran.clear()
    made = build(wanted(tmp_path), store, lambda _text: None)
    assert ran == ["qat", "export_int8", "ort_format"]
    again = build(wanted(tmp_path), store, lambda _text: None)
    assert (again.sha256, ran) == (made.sha256, ["qat", "export_int8", "ort_format"])
    assert [step.name for step in made.manifest.steps] == STEPS
    assert {point.metric for point in made.manifest.curves} == {"loss"}
    assert (made.manifest.fused_kernels or {})["QLinearConv"] == 15
    session = onnxruntime.InferenceSession(str(made.path))
    assert session.get_inputs()[0].shape == [1, 3, 32, 32]
    ran.clear()
    build(wanted(tmp_path, "aarch64-dotprod"), store, lambda _text: None)
    assert ran == ["export_int8", "ort_format"]  # trained once for all boards


@pytest.mark.parametrize("name", ["qat", "prune30", "prune30_qat", "low_rank"])
def test_the_shipped_recipes_fit_a_network(name: str, tmp_path: Path) -> None:
    """Each of them is a chain from a network to what onnxruntime runs."""
    from models.chain import links  # noqa: PLC0415 - used here only

    request = wanted(tmp_path)
    chain = links(
        VariantRequest(request.model, recipes.get(name), request.isa, training=request.training)
    )
    assert chain[0].step.name == "create"
    assert chain[-1].step.makes in ("onnx", "ort")
