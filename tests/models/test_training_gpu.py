"""Trainings on a GPU, a pretended one: its tensors are apart, the arithmetic is the CPU's."""

from __future__ import annotations

import fcntl
import importlib.util
import threading
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch", reason="training needs torch: install the extra 'models'")
if torch.cuda.is_available():
    pytest.skip(
        "this machine has a GPU, which tests/models/test_training.py uses", allow_module_level=True
    )

from support.pretendcuda import GPU, pretended_gpu  # noqa: E402 - after the skips
from support.training import FAMILIES, SIDE, drawn_shapes, network, quiet  # noqa: E402

from models.data import DataSpec  # noqa: E402
from models.data.draw import CLASS_NAMES  # noqa: E402
from models.data.training import training_spec  # noqa: E402
from models.errors import BuildFailed  # noqa: E402
from models.nets.arch import Arch  # noqa: E402
from models.nets.net import Net, build_net  # noqa: E402
from models.spec import TrainingSpec  # noqa: E402
from models.steps.compress_kinds import QatParams  # noqa: E402
from models.steps.qat import prepare  # noqa: E402
from models.steps.settings import Settings  # noqa: E402
from models.train import loop  # noqa: E402
from models.train.device import device_of, sole_use, uses_bfloat16  # noqa: E402
from models.train.fit import Teacher, fit  # noqa: E402
from models.train.speed_child import seconds_per_image  # noqa: E402

pytestmark = [pytest.mark.torch, pytest.mark.slow]

PLAIN = Settings(epochs=2, batch=4, lr=2e-3, warmup_steps=2, ema=0.9, val_images=4, amp="off")


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
    """Drawn in memory, with a few validation images."""
    cache = tmp_path_factory.mktemp("blobs")
    return training_spec(DataSpec("blobs", split="train"), DataSpec("blobs"), 12, cache)


def weights(net: Net) -> dict[str, Any]:
    state: dict[str, Any] = net.module.state_dict()
    return state


def close(one: dict[str, Any], other: dict[str, Any]) -> bool:
    return one.keys() == other.keys() and all(
        torch.allclose(one[name], other[name], rtol=1e-4, atol=1e-5) for name in one
    )


def changed(settings: Settings, **fields: Any) -> Settings:
    known = {name: getattr(settings, name) for name in Settings.__struct_fields__}
    return Settings(**known | fields)


def test_a_gpu_takes_no_tensor_of_the_cpu() -> None:
    """An operator that is given tensors of both devices is refused, as on a real GPU."""
    with pretended_gpu():
        there = torch.ones(3).to("cuda")
        assert there.device == GPU
        assert (there + 1).cpu().tolist() == [2.0, 2.0, 2.0]
        with pytest.raises(RuntimeError, match="same device"):
            there + torch.ones(3)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_training_on_a_gpu_is_the_one_on_the_cpu(
    family: str, shapes: TrainingSpec, blobs: TrainingSpec
) -> None:
    """Every kind of network of ours learns on the GPU alone, and comes back as it would have."""
    data = blobs if family == "unet" else shapes
    here, there = network(family), network(family)
    settings = changed(PLAIN, optimizer="sgd")  # Adam makes much of what rounding leaves of zero
    wanted = fit(here, data, changed(settings, device="cpu"), quiet)
    with pretended_gpu() as ran:
        curves = fit(there, data, settings, quiet)
    assert ran["aten::convolution"]
    assert ran["aten::convolution_backward"]
    assert close(weights(here), weights(there))
    assert all(type(value) is torch.Tensor for value in weights(there).values())
    assert [(p.epoch, p.metric) for p in curves] == [(p.epoch, p.metric) for p in wanted]
    assert [p.value for p in curves] == pytest.approx([p.value for p in wanted], rel=1e-3)


@pytest.mark.parametrize("family", FAMILIES)
def test_what_is_added_to_a_training_goes_to_the_gpu_too(
    family: str, shapes: TrainingSpec, blobs: TrainingSpec
) -> None:
    """Auxiliary branch, teacher and bfloat16: no tensor is left behind, and it learns."""
    data = blobs if family == "unet" else shapes
    teacher = Teacher(network(family, seed=1), 0.5, 2.0)
    settings = changed(PLAIN, aux=0.5, amp="auto", val_images=0)
    student = network(family)
    with pretended_gpu() as ran:
        assert uses_bfloat16(settings, device_of(settings))
        curves = fit(student, data, settings, quiet, teacher=teacher)
    assert ran["aten::_fused_adamw_"] == 2 * 3 * 2  # epochs, batches, groups
    assert all(0 < point.value < float("inf") for point in curves)
    assert not close(weights(student), weights(network(family)))
    for net in (student, teacher.net):
        assert {value.device.type for value in weights(net).values()} == {"cpu"}


def test_another_teacher_and_rounded_layers_go_to_the_gpu(shapes: TrainingSpec) -> None:
    """Quantization-aware training, taught by a network with another grid, runs on the GPU."""
    student = network("tinydet")
    prepare(student, QatParams())
    before = {name: value.clone() for name, value in weights(student).items()}
    with pretended_gpu() as ran:
        fit(student, shapes, PLAIN, quiet, teacher=Teacher(network("yolov3-tiny"), 0.5, 2.0))
    assert ran["aten::convolution_backward"]
    assert not close(before, weights(student))


def test_a_training_begun_on_a_gpu_goes_on_without_it(shapes: TrainingSpec, tmp_path: Path) -> None:
    """A checkpoint of a GPU is read by a machine that has none, and by the GPU again."""

    def stop(text: str) -> None:
        if text.startswith("epoch 1/"):
            raise KeyboardInterrupt

    whole = network("tinydet")
    settings = changed(PLAIN, optimizer="sgd")
    fit(whole, shapes, settings, quiet)
    for place in ("cpu", "auto"):
        folder = tmp_path / place
        with pretended_gpu(), pytest.raises(KeyboardInterrupt):
            fit(network("tinydet"), shapes, settings, stop, resume=folder)
        again, said = network("tinydet"), list[str]()
        if place == "cpu":
            fit(again, shapes, settings, said.append, resume=folder)
        else:
            with pretended_gpu() as ran:
                fit(again, shapes, settings, said.append, resume=folder)
            assert ran["aten::convolution_backward"]
        assert any(line.startswith("going on after epoch 1") for line in said)
        assert close(weights(again), weights(whole))


@pytest.mark.parametrize("family", FAMILIES)
def test_the_speed_of_a_training_is_that_of_the_gpu(family: str) -> None:
    """A dry run's estimate is made where the training would be, in its precision."""
    with pretended_gpu() as ran:
        assert seconds_per_image(network(family), device_of(PLAIN)) > 0
    assert ran["aten::convolution_backward"]


def test_trainings_take_turns_on_a_gpu(tmp_path: Path) -> None:
    """A second training waits, says so, and goes on when the first has ended."""
    said: list[str] = []
    began = threading.Event()

    def second() -> None:
        with sole_use(PLAIN, tmp_path, said.append):
            began.set()

    with pretended_gpu():
        waiting = threading.Thread(target=second)
        with sole_use(PLAIN, tmp_path, quiet):
            waiting.start()
            assert not began.wait(0.3)
            assert said == ["another training has the GPU; waiting"]
        waiting.join(10)
    assert began.is_set()


def test_trainings_on_the_cpu_do_not_wait(tmp_path: Path) -> None:
    """Where there is no GPU to share, several train at once."""
    with sole_use(PLAIN, tmp_path, quiet), sole_use(PLAIN, tmp_path, quiet):
        assert not list(tmp_path.iterdir())


def test_a_gpu_too_small_is_told_in_words(
    shapes: TrainingSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Memory that does not suffice names the batch and what to change, and frees the GPU."""

    def full(*_given: Any) -> Any:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")

    monkeypatch.setattr(loop, "_epoch", full)
    with pretended_gpu(), pytest.raises(BuildFailed, match=r"batch of 4.*smaller"):
        fit(network("tinydet"), shapes, PLAIN, quiet)
    with (shapes.cache / "gpu.lock").open() as file:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)


# ---------------------------------------------------------------- ultralytics' trainer

needs_ultralytics = pytest.mark.skipif(
    importlib.util.find_spec("ultralytics") is None,
    reason="needs ultralytics: install the extra 'models'",
)


@pytest.fixture
def in_this_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """ultralytics' settings folder, and its trainer here, where the GPU is pretended."""
    from models.nets.ultra import library  # noqa: PLC0415 - ultralytics reads the folder
    from models.train import ultra, ultra_child  # noqa: PLC0415 - as above

    monkeypatch.setenv("YOLO_CONFIG_DIR", str(tmp_path))
    library("nn.tasks")  # imports it as every build does, before the trainer does

    def run(_work: Path, request: Any, log: Any) -> list[str]:
        monkeypatch.setattr(ultra_child, "say", log)
        monkeypatch.setattr(ultra_child, "end_with_parent", lambda _pid: None)
        path = tmp_path / "request.json"
        import msgspec  # noqa: PLC0415

        path.write_bytes(msgspec.json.encode(request, enc_hook=str))
        ultra_child.main(str(path))
        return []

    monkeypatch.setattr(ultra, "_run", run)


def yolo(seed: int = 0, width: float = 0.125) -> Net:
    from models.nets import ultra as nets  # noqa: PLC0415
    from models.nets.ultra_yaml import scaled  # noqa: PLC0415

    yaml = nets.library("nn.tasks").yaml_model_load("yolov8n.yaml")
    options = {"yaml": scaled(yaml, {"num_classes": 6, "width": width})}
    arch = Arch(family="ultralytics", options=options, imgsz_px=SIDE, class_names=CLASS_NAMES)
    return build_net(arch, seed)


@needs_ultralytics
@pytest.mark.usefixtures("in_this_process")
@pytest.mark.filterwarnings("ignore:'pin_memory'")  # pages for a driver that is not there
@pytest.mark.parametrize("taught", [False, True])
def test_ultralytics_networks_learn_on_the_gpu(
    taught: bool, shapes: TrainingSpec, tmp_path: Path
) -> None:
    """Its trainer has the GPU, with our branch or a teacher, our average, bfloat16; it resumes."""
    net = yolo()
    teacher = Teacher(yolo(seed=1, width=0.25), 0.5, 2.0) if taught else None
    settings = changed(PLAIN, aux=0.0 if taught else 0.25, amp="auto")
    said: list[str] = []

    def stop(text: str) -> None:
        if text.startswith("epoch 2/"):  # said before it is kept
            raise KeyboardInterrupt

    with pretended_gpu() as ran:
        with pytest.raises(KeyboardInterrupt):
            fit(yolo(), shapes, settings, stop, teacher=teacher, resume=tmp_path)
        begun = ran["aten::convolution_backward"]
        curves = fit(net, shapes, settings, said.append, teacher=teacher, resume=tmp_path)
    assert "going on after epoch 1 of an interrupted training" in said
    assert ran["aten::convolution_backward"] > begun > 0
    assert {(p.epoch, p.metric) for p in curves} == {
        (epoch, name) for epoch in (1, 2) for name in ("loss", "map50", "map50_95")
    }
    assert not close(weights(net), weights(yolo()))
    assert {value.device.type for value in weights(net).values()} == {"cpu"}


@needs_ultralytics
@pytest.mark.usefixtures("in_this_process")
def test_no_smaller_batch_is_taken_in_silence(
    shapes: TrainingSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where memory is short the training fails in words; what it says it did is what it did."""
    from models.train import ultra_trainer  # noqa: PLC0415

    def full(*_given: Any, **_named: Any) -> Any:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")

    monkeypatch.setattr(ultra_trainer._Trainer, "preprocess_batch", full)
    with pytest.raises(BuildFailed, match=r"batch of 4.*smaller"):
        fit(yolo(), shapes, changed(PLAIN, val_images=0), quiet)
