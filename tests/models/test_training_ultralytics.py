"""Networks of ultralytics, trained by its own trainer through our interface."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any, Literal

import numpy as np
import onnxruntime
import pytest

torch = pytest.importorskip("torch", reason="training needs torch: install the extra 'models'")
if importlib.util.find_spec("ultralytics") is None:  # not imported yet: it reads its settings then
    pytest.skip("needs ultralytics: install the extra 'models'", allow_module_level=True)

from support.compress import kernels, output, parameters, pictures, ptq, run, settled  # noqa: E402

from models.data import DataSpec  # noqa: E402
from models.data.draw import CLASS_NAMES  # noqa: E402
from models.data.shapes import write_shapes  # noqa: E402
from models.data.training import training_spec  # noqa: E402
from models.errors import BuildFailed  # noqa: E402
from models.nets import ultra as nets  # noqa: E402
from models.nets.arch import Arch  # noqa: E402
from models.nets.net import Net, build_net, load_net  # noqa: E402
from models.nets.ultra_yaml import scaled  # noqa: E402
from models.spec import TrainingSpec  # noqa: E402
from models.steps.settings import Settings  # noqa: E402
from models.train.fit import Teacher, fit  # noqa: E402

pytestmark = [pytest.mark.torch, pytest.mark.slow, pytest.mark.timeout(900)]

SIDE = 64
SETTINGS = Settings(epochs=3, batch=4, ema=0.9, warmup_steps=2, val_images=4, amp="off", aux=0.25)


@pytest.fixture(scope="module")
def shapes(tmp_path_factory: pytest.TempPathFactory) -> TrainingSpec:
    """A folder of a few drawn images with boxes, as VOC lays them out."""
    root = tmp_path_factory.mktemp("data") / "shapes"
    write_shapes(root, {"train": 8, "val": 4})
    val = DataSpec(str(root), "voc", "val")
    return training_spec(DataSpec(str(root), "voc", "train"), val, None, root.parent)


def network(seed: int = 0, width: float = 0.125) -> Net:
    yaml = nets.library("nn.tasks").yaml_model_load("yolov8n.yaml")
    options = {"num_classes": 6, "width": width}
    arch = Arch(
        family="ultralytics",
        options={"yaml": scaled(yaml, options)},
        imgsz_px=SIDE,
        class_names=CLASS_NAMES,
    )
    return build_net(arch, seed)


def weights(net: Net) -> dict[str, Any]:
    return {name: value.clone() for name, value in net.module.state_dict().items()}


class Interrupted(Exception):
    pass


def test_a_resumed_training_ends_as_an_uninterrupted_one(
    shapes: TrainingSpec, tmp_path: Path
) -> None:
    """Stopped after an epoch and run again: equal weights and curves, no file left elsewhere."""
    before = sorted(path.name for path in Path.cwd().iterdir())
    whole, again = network(), network()
    wanted = fit(whole, shapes, SETTINGS, lambda _: None)

    def stop(text: str) -> None:
        if text.startswith("epoch 2/3"):
            raise Interrupted

    with pytest.raises(Interrupted):
        fit(network(), shapes, SETTINGS, stop, resume=tmp_path)
    said: list[str] = []
    curves = fit(again, shapes, SETTINGS, said.append, resume=tmp_path)
    assert any(line.startswith("going on after epoch") for line in said)
    assert curves == wanted
    one, other = weights(whole), weights(again)
    assert one.keys() == other.keys() == weights(network()).keys()
    assert all(torch.equal(one[name], other[name]) for name in one)
    metrics = {("train", "loss"), ("val", "map50"), ("val", "map50_95")}
    for epoch in (1, 2, 3):
        assert {(p.split, p.metric) for p in wanted if p.epoch == epoch} == metrics
    assert sorted(path.name for path in Path.cwd().iterdir()) == before


@pytest.mark.parametrize("amp", ["off", "on"])
def test_a_student_learns_from_a_teacher(amp: Literal["on", "off"], shapes: TrainingSpec) -> None:
    """A wider teacher's features enter the loss, and the student keeps its own structure."""
    settings = Settings(epochs=1, batch=4, val_images=0, amp=amp, ema=0)
    alone, taught = network(), network()
    fit(alone, shapes, settings, lambda _: None)
    teacher = Teacher(network(seed=1, width=0.25), alpha=0.5, temperature=2.0)
    fit(taught, shapes, settings, lambda _: None, teacher=teacher)
    one, other = weights(alone), weights(taught)
    assert one.keys() == other.keys()
    assert any(not torch.equal(one[name], other[name]) for name in one)


def test_what_goes_wrong_in_the_child_is_told_in_words(shapes: TrainingSpec) -> None:
    """A loss that is no longer finite names the epoch and the learning rate."""
    net = network()
    with torch.no_grad():
        next(net.module.parameters()).fill_(float("nan"))
    settings = Settings(epochs=1, batch=4, val_images=0, amp="off")
    with pytest.raises(BuildFailed, match=r"epoch 1: the loss is nan.*lower lr \(0.002\)"):
        fit(net, shapes, settings, lambda _: None)


SHORT = {"epochs": 1, "batch": 4, "val_images": 0, "amp": "off"}


def test_qat_makes_the_int8_file_that_ptq_makes(shapes: TrainingSpec, tmp_path: Path) -> None:
    """Trained with rounding for an epoch: 63 QLinearConv as by PTQ, and the size to 2 %."""
    net = settled(network(width=0.25))
    plain = network(width=0.25)
    trained = run("qat", net, tmp_path / "trained", params=SHORT, training=shapes)
    assert [(p.epoch, p.metric) for p in trained.curves] == [(1, "loss")]
    ours = run("export_int8", trained.path, tmp_path / "qat").path
    theirs = ptq(settled(plain), pictures(4, SIDE), tmp_path / "ptq")
    assert kernels(ours, tmp_path)["QLinearConv"] == 63
    assert kernels(theirs, tmp_path)["QLinearConv"] == 63
    assert ours.stat().st_size == pytest.approx(theirs.stat().st_size, rel=0.02)


def test_a_pruned_network_is_fine_tuned_and_exported(shapes: TrainingSpec, tmp_path: Path) -> None:
    """Fine-tuning changes the weights that pruning left and not their number; the file runs."""
    pytest.importorskip("torch_pruning", reason="pruning needs torch-pruning: the extra 'models'")
    net = settled(network(width=0.25))
    whole = parameters(net)
    halved = {"ratio": 0.5, "exclude": ("head",)}
    pruned = run("prune", net, tmp_path / "pruned", params=halved).path
    tuned = run("finetune", pruned, tmp_path / "tuned", params=SHORT, training=shapes).path
    before, after = load_net(pruned), load_net(tuned)
    assert parameters(after) == parameters(before) < 0.6 * whole
    one, other = weights(before), weights(after)
    assert {n: v.shape for n, v in one.items()} == {n: v.shape for n, v in other.items()}
    learned = [name for name in one if name.endswith("conv.weight")]
    assert any(not torch.equal(one[name], other[name]) for name in learned)
    path = run("export_net", tuned, tmp_path / "file").path
    images = pictures(1, SIDE)
    (given,) = onnxruntime.InferenceSession(str(path)).run(None, {"images": images.numpy()})
    assert np.abs(given - output(after, images).numpy()).max() < 1e-2


def test_an_auxiliary_branch_changes_what_is_learned(shapes: TrainingSpec) -> None:
    """With a branch of weight 0.5 the same seed ends with other weights, and no branch is kept."""
    learned = []
    for aux in (0.0, 0.0, 0.5):
        net = network()
        settings = Settings(epochs=1, batch=4, val_images=0, amp="off", ema=0, aux=aux)
        fit(net, shapes, settings, lambda _: None)
        learned.append(weights(net))
    alone, again, helped = learned
    assert alone.keys() == helped.keys() == weights(network()).keys()
    assert all(torch.equal(alone[name], again[name]) for name in alone)
    backbone = [name for name in alone if name.startswith("model.0.conv.")]
    assert backbone
    assert not any(torch.equal(alone[name], helped[name]) for name in backbone)
