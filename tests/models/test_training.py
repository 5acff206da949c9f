"""The training interface on small networks and drawn images."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="training needs torch: install the extra 'models'")

from support.training import FAMILIES, SIDE, drawn_shapes, network, quiet  # noqa: E402

from models.data import DataSpec  # noqa: E402 - after the skip
from models.data.draw import CLASS_NAMES  # noqa: E402
from models.data.training import training_spec  # noqa: E402
from models.errors import BuildFailed, DataError  # noqa: E402
from models.nets.arch import Arch  # noqa: E402
from models.nets.net import Net, build_net  # noqa: E402
from models.spec import TrainingSpec  # noqa: E402
from models.steps.settings import Settings  # noqa: E402
from models.train import fit as fitting  # noqa: E402
from models.train import loop  # noqa: E402
from models.train.detecting import DetectionData  # noqa: E402
from models.train.device import uses_bfloat16  # noqa: E402
from models.train.examples import Examples, batches  # noqa: E402
from models.train.fit import Teacher, fit  # noqa: E402
from models.train.loss import Truth  # noqa: E402
from models.train.objectives import segmentation_loss  # noqa: E402
from models.train.optimizing import Average, lr_share  # noqa: E402
from models.train.told import objects_in  # noqa: E402

pytestmark = [pytest.mark.torch, pytest.mark.slow]

SHORT = Settings(epochs=3, batch=4, lr=2e-3, warmup_steps=2, ema=0.9, val_images=4, amp="off")


@pytest.fixture(autouse=True, scope="module")
def _one_thread() -> Any:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def shapes(tmp_path_factory: pytest.TempPathFactory) -> TrainingSpec:
    """A folder of a few drawn images with boxes, as VOC lays them out."""
    return drawn_shapes(tmp_path_factory.mktemp("data") / "shapes")


@pytest.fixture(scope="module")
def blobs(tmp_path_factory: pytest.TempPathFactory) -> TrainingSpec:
    """Drawn in memory, without validation images."""
    spec = DataSpec("blobs", split="train")
    return training_spec(spec, None, 12, tmp_path_factory.mktemp("blobs"))


def weights(net: Net) -> dict[str, Any]:
    return {name: value.clone() for name, value in net.module.state_dict().items()}


def equal(one: dict[str, Any], other: dict[str, Any]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[k], other[k]) for k in one)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_few_epochs_lower_the_loss(
    family: str, shapes: TrainingSpec, blobs: TrainingSpec
) -> None:
    """Every kind of network of ours learns, and its curve has one loss an epoch."""
    net = network(family)
    settings = Settings(epochs=6, batch=4, ema=0, warmup_steps=0, val_images=0, amp="off")
    curves = fit(net, blobs if family == "unet" else shapes, settings, quiet)
    losses = [point.value for point in curves]
    assert [(p.epoch, p.split, p.metric) for p in curves] == [
        (epoch, "train", "loss") for epoch in range(1, 7)
    ]
    assert losses[-1] < 0.95 * losses[0]
    assert net.arch.trained
    assert not net.module.training


def test_curves_hold_the_scores_of_each_epoch(shapes: TrainingSpec) -> None:
    """With validation images every epoch has a loss and both average precisions."""
    said: list[str] = []
    net = network("tinydet")
    curves = fit(net, shapes, SHORT, said.append)
    wanted = {("train", "loss"), ("val", "map50"), ("val", "map50_95")}
    for epoch in (1, 2, 3):
        assert {(p.split, p.metric) for p in curves if p.epoch == epoch} == wanted
    lines = [line for line in said if line.startswith("epoch ")]
    assert len(lines) == 3
    assert "left" in lines[0]
    assert net.arch.class_names == CLASS_NAMES


def test_the_same_seed_gives_the_same_weights(shapes: TrainingSpec) -> None:
    """Two trainings agree to the last bit, another seed gives others."""
    nets = [network("tinydet") for _ in range(3)]
    for net, seed in zip(nets, (1, 1, 2), strict=True):
        fit(net, shapes, Settings(epochs=1, batch=4, seed=seed, val_images=0, amp="off"), quiet)
    first, second, third = map(weights, nets)
    assert equal(first, second)
    assert not equal(first, third)


class Interrupted(Exception):
    pass


@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
def test_a_resumed_training_ends_as_an_uninterrupted_one(
    optimizer: Any, shapes: TrainingSpec, tmp_path: Path
) -> None:
    """Stopped after an epoch and run again: equal weights, equal curves, no epoch twice."""
    settings = Settings(
        epochs=3, batch=4, optimizer=optimizer, ema=0.9, val_images=4, amp="off", aux=0.25
    )
    whole = network("tinydet")
    wanted = fit(whole, shapes, settings, quiet)

    def stop(text: str) -> None:
        if text.startswith("epoch 2/3"):
            raise Interrupted

    with pytest.raises(Interrupted):
        fit(network("tinydet"), shapes, settings, stop, resume=tmp_path)
    said: list[str] = []
    again = network("tinydet")
    curves = fit(again, shapes, settings, said.append, resume=tmp_path)
    assert [line for line in said if "interrupted" in line] == [
        "going on after epoch 2 of an interrupted training"
    ]
    assert sum(line.startswith("epoch ") for line in said) == 1
    assert curves == wanted
    assert equal(weights(again), weights(whole))


def test_a_damaged_checkpoint_is_said_and_left_aside(shapes: TrainingSpec, tmp_path: Path) -> None:
    """A checkpoint that was cut off costs the epochs, never the training."""
    (tmp_path / loop.CHECKPOINT).write_bytes(b"PK\x03\x04 half a file")
    said: list[str] = []
    settings = Settings(epochs=1, batch=4, val_images=0, amp="off")
    fit(network("tinydet"), shapes, settings, said.append, resume=tmp_path)
    assert any("cannot be read" in line and "starting over" in line for line in said)


def test_another_number_of_classes_is_refused_in_words(shapes: TrainingSpec) -> None:
    """A network for 20 classes and data with 6: both numbers, and what to write."""
    net = network("tinydet", num_classes=20)
    net.arch = Arch(
        family="tinydet", options=net.arch.options, imgsz_px=SIDE,
        class_names=tuple(str(i) for i in range(20)),
    )  # fmt: skip
    with pytest.raises(BuildFailed, match=r"20 classes.*has 6 \(circle.*num_classes: 6"):
        fit(net, shapes, SHORT, quiet)


def test_boxes_do_not_train_a_segmenter(shapes: TrainingSpec) -> None:
    """A U-Net on images with boxes is refused before anything is trained."""
    with pytest.raises(DataError, match="SegmentationClass"):
        fit(network("unet"), shapes, SHORT, quiet)


def test_a_diverging_training_says_so(shapes: TrainingSpec) -> None:
    """A loss that is no longer finite names the epoch and the learning rate."""
    net = network("tinydet")
    with torch.no_grad():
        next(net.module.parameters()).fill_(float("nan"))
    with pytest.raises(BuildFailed, match=r"epoch 1: the loss is nan.*lower lr \(0.002\)"):
        fit(net, shapes, SHORT, quiet)


@pytest.mark.parametrize("family", ["tinydet", "yolov3-tiny", "unet"])
def test_the_auxiliary_branch_leaves_no_trace(
    family: str, shapes: TrainingSpec, blobs: TrainingSpec
) -> None:
    """It changes the weights that are learned and neither the structure nor the hooks."""
    data = blobs if family == "unet" else shapes
    plain, helped = network(family), network(family)
    settings = Settings(epochs=1, batch=4, val_images=0, amp="off", ema=0)
    fit(plain, data, settings, quiet)
    fit(helped, data, Settings(epochs=1, batch=4, val_images=0, amp="off", ema=0, aux=0.5), quiet)
    one, other = weights(plain), weights(helped)
    assert one.keys() == other.keys()
    assert not equal(one, other)
    assert not any(module._forward_hooks for module in helped.module.modules())


@pytest.mark.parametrize("family", ["tinydet", "yolov3-tiny", "unet"])
def test_a_student_comes_nearer_to_its_teacher(
    family: str, shapes: TrainingSpec, blobs: TrainingSpec
) -> None:
    """Taught alone (alpha 1), the student's outputs move towards the teacher's."""
    data = blobs if family == "unet" else shapes
    options = FAMILIES[family]
    names = CLASS_NAMES if family != "unet" else ("blob",)
    arch = Arch(family=family, options=options, imgsz_px=SIDE, class_names=names)
    master, student = build_net(arch, seed=1), build_net(arch, seed=2)
    fit(master, data, Settings(epochs=2, batch=4, val_images=0, amp="off", ema=0), quiet)
    settings = Settings(epochs=4, batch=4, val_images=0, amp="off", ema=0, warmup_steps=0)
    curves = fit(student, data, settings, quiet, teacher=Teacher(master, 1.0, 2.0))
    losses = [point.value for point in curves]
    assert losses[-1] < 0.9 * losses[0]
    assert min(losses) >= 0


def test_a_teacher_with_other_anchors_tells_objects(
    shapes: TrainingSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a detector with another grid is sure of is learned as labels are, instead of labels."""
    told = Truth(
        torch.tensor([[[8.0, 8, 40, 40]]] * 4), torch.ones(4, 1).long(), torch.ones(4, 1) > 0
    )
    monkeypatch.setattr(fitting, "objects_in", lambda outputs: told)
    student, teacher = network("tinydet"), Teacher(network("yolov3-tiny"), 1.0, 2.0)
    settings = Settings(epochs=30, batch=4, lr=5e-3, val_images=0, amp="off", ema=0, warmup_steps=2)
    fit(student, shapes, settings, quiet, teacher=teacher)
    images, _ = next(DetectionData(shapes, settings, SIDE).batches(0))
    with torch.no_grad():
        scores = student.module(images)[:, 4:].mean(dim=(0, 2))
    assert scores.argmax() == 1


def test_sure_objects_are_told_once() -> None:
    """Of boxes on one object the surest is told; what scores little is nothing."""
    boxes = [[20, 20, 10, 10], [21, 20, 10, 10], [50, 50, 8, 4], [9, 9, 4, 4]]  # cx, cy, w, h
    scores = [[0.9, 0.8, 0.1, 0.2], [0.1, 0.1, 0.6, 0.1]]
    output = torch.cat([torch.tensor(boxes).T.float(), torch.tensor(scores)])
    nothing = torch.zeros_like(output)
    truth = objects_in(torch.stack([output, nothing]))
    assert truth.real.tolist() == [[True, True], [False, False]]
    assert truth.classes[0].tolist() == [0, 1]
    assert truth.boxes[0].tolist() == [[15, 15, 25, 25], [46, 48, 54, 52]]


@pytest.mark.parametrize(("size", "classes"), [(96, 6), (SIDE, 3)])
def test_a_teacher_that_does_not_fit_is_refused(
    size: int, classes: int, shapes: TrainingSpec
) -> None:
    """Another input size or other classes: both shapes are told."""
    options = FAMILIES["yolov3-tiny"] | {"num_classes": classes}
    names = tuple(str(number) for number in range(classes))
    arch = Arch(family="yolov3-tiny", options=options, imgsz_px=size, class_names=names)
    teacher = Teacher(build_net(arch, seed=1), 0.5, 2.0)
    with pytest.raises(BuildFailed, match=rf"teacher \(yolov3-tiny, {size} px\).*\(1, 10, 84\)"):
        fit(network("tinydet"), shapes, SHORT, quiet, teacher=teacher)


def test_learning_rates() -> None:
    """Warm-up, then cosine to a hundredth; steps of gamma; or constant."""
    cosine = Settings(epochs=10, warmup_steps=5)
    assert lr_share(cosine, 0, 10) == pytest.approx(0.2)
    assert lr_share(cosine, 5, 10) == pytest.approx(1.0)
    assert lr_share(cosine, 100, 10) == pytest.approx(0.01)
    study = Settings(epochs=200, schedule="step", gamma=0.8, step_epochs=10, warmup_steps=0)
    assert lr_share(study, 0, 7) == 1.0
    assert lr_share(study, 7 * 10, 7) == pytest.approx(0.8)
    assert lr_share(study, 7 * 199, 7) == pytest.approx(0.8**19)
    assert lr_share(Settings(schedule="constant", warmup_steps=0), 99, 10) == 1.0


def test_bfloat16_follows_the_settings() -> None:
    """On and off are obeyed, whatever the CPU can do."""
    cpu = torch.device("cpu")
    assert uses_bfloat16(Settings(amp="on"), cpu)
    assert not uses_bfloat16(Settings(amp="off"), cpu)


def test_cuda_is_refused_where_there_is_none(shapes: TrainingSpec) -> None:
    """Asking for CUDA on a machine without it says so."""
    if torch.cuda.is_available():
        pytest.skip("this machine has CUDA: there is nothing to refuse")
    with pytest.raises(BuildFailed, match="cuda was asked for"):
        fit(network("tinydet"), shapes, Settings(device="cuda"), quiet)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU")
@pytest.mark.parametrize("family", FAMILIES)
def test_a_gpu_learns_what_the_cpu_learns(
    family: str, shapes: TrainingSpec, blobs: TrainingSpec
) -> None:
    """On a real GPU the losses are those of the CPU but for rounding; the weights come back."""
    losses = []
    for device in ("cpu", "cuda"):
        net = network(family)
        settings = Settings(
            epochs=2, batch=4, optimizer="sgd", val_images=0, amp="off", device=device
        )
        curves = fit(net, blobs if family == "unet" else shapes, settings, quiet)
        losses.append([point.value for point in curves])
        assert {value.device.type for value in weights(net).values()} == {"cpu"}
    assert losses[1] == pytest.approx(losses[0], rel=0.02)


def test_the_average_keeps_other_buffers_as_they_are() -> None:
    """Weights are averaged; counters and ranges with infinities are copied."""
    module = torch.nn.Linear(1, 1, bias=False)
    module.register_buffer("range", torch.tensor(float("inf")))
    with torch.no_grad():
        module.weight.fill_(0.0)
        average = Average(module, 0.5)
        module.weight.fill_(1.0)
        module.range.fill_(3.0)
    average.update(module)
    assert 0 < average.state["weight"].item() < 1
    assert average.state["range"].item() == 3.0


def test_batches_do_not_depend_on_what_is_kept_in_memory() -> None:
    """A set too large for memory gives the same epochs as one that is kept."""

    def epoch(limit_bytes: int) -> list[list[float]]:
        examples = Examples(float, count=10, size_bytes=1, limit_bytes=limit_bytes)
        return list(
            batches(examples, 3, (7, 0), lambda e, rng: e + rng.random(), lambda group: group)
        )

    kept, read_again = epoch(10), epoch(9)
    assert kept == read_again
    assert len(kept) == 3
    assert len({int(value) for group in kept for value in group}) == 9


def test_few_examples_make_one_batch() -> None:
    """Fewer examples than a batch are trained on still."""
    examples = Examples(float, count=2, size_bytes=1)
    (batch,) = batches(examples, 16, (0, 0), lambda e, _rng: e, lambda group: group)
    assert sorted(batch) == [0.0, 1.0]


def test_ignored_pixels_do_not_count() -> None:
    """What lies under 255 changes nothing in the loss of a mask."""
    labels = torch.zeros(1, 8, 8, dtype=torch.uint8)
    labels[0, :4, :4] = 1
    labels[0, 6:] = 255
    logits = torch.randn(1, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    changed = logits.clone()
    changed[..., 6:, :] = 50.0
    assert segmentation_loss(logits, labels).item() == pytest.approx(
        segmentation_loss(changed, labels).item()
    )
    right = torch.where(labels[:, None] == 1, 20.0, -20.0)
    assert segmentation_loss(right, labels).item() == pytest.approx(0, abs=1e-3)
    assert np.isfinite(segmentation_loss(logits, torch.full_like(labels, 255)).item())
