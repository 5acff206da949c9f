"""Networks of ultralytics, trained by its own trainer through our interface."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch", reason="training needs torch: install the extra 'models'")
if importlib.util.find_spec("ultralytics") is None:  # not imported yet: it reads its settings then
    pytest.skip("needs ultralytics: install the extra 'models'", allow_module_level=True)

from models.data import DataSpec  # noqa: E402 - after the skip
from models.data.draw import CLASS_NAMES  # noqa: E402
from models.data.shapes import write_shapes  # noqa: E402
from models.data.training import training_spec  # noqa: E402
from models.errors import BuildFailed  # noqa: E402
from models.nets import ultra as nets  # noqa: E402
from models.nets.arch import Arch  # noqa: E402
from models.nets.net import Net, build_net  # noqa: E402
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


def test_a_student_learns_from_a_teacher(shapes: TrainingSpec) -> None:
    """A wider teacher's features enter the loss, and the student keeps its own structure."""
    settings = Settings(epochs=1, batch=4, val_images=0, amp="off", ema=0)
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
