"""The steps `train`, `finetune` and `distill` in a build."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest

torch = pytest.importorskip("torch", reason="training needs torch: install the extra 'models'")
pytest.importorskip("onnxslim", reason="exports need onnxslim: install the extra 'models'")

from models import recipes, zoo  # noqa: E402 - after the skip
from models.build import VariantRequest, build  # noqa: E402
from models.data import DataSpec  # noqa: E402
from models.data.draw import CLASS_NAMES  # noqa: E402
from models.data.shapes import write_shapes  # noqa: E402
from models.data.training import training_spec  # noqa: E402
from models.errors import BuildFailed  # noqa: E402
from models.spec import ModelSpec, StepSpec, TrainingSpec  # noqa: E402
from models.steps import ALL_STEPS  # noqa: E402
from models.store import ArtifactStore  # noqa: E402

pytestmark = [pytest.mark.torch, pytest.mark.slow]

SHORT = {"epochs": 2, "batch": 4, "val_images": 4, "amp": "off"}


@pytest.fixture(scope="module")
def shapes(tmp_path_factory: pytest.TempPathFactory) -> TrainingSpec:
    root = tmp_path_factory.mktemp("data") / "shapes"
    write_shapes(root, {"train": 8, "val": 4})
    val = DataSpec(str(root), "voc", "val")
    return training_spec(DataSpec(str(root), "voc", "train"), val, None, root.parent)


@pytest.fixture(autouse=True)
def _one_thread() -> Any:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def step(name: str, **params: Any) -> StepSpec:
    filled = msgspec.convert(params, ALL_STEPS[name].params)
    return StepSpec(name, msgspec.to_builtins(filled))


def model(*steps: StepSpec, classes: int = 6) -> ModelSpec:
    return zoo.resolve("tinydet", imgsz=64, options={"num_classes": classes}, steps=steps)


def request(spec: ModelSpec, training: TrainingSpec | None, **others: ModelSpec) -> VariantRequest:
    return VariantRequest(spec, recipes.get("fp32"), "x86_64", training=training, others=others)


def test_a_network_is_trained_exported_and_remembered(shapes: TrainingSpec, tmp_path: Path) -> None:
    """The file has the data's class names and the curves; a second build does nothing."""
    store = ArtifactStore(tmp_path)
    said: list[str] = []
    wanted = request(model(step("train", **SHORT)), shapes)
    built = build(wanted, store, said.append)
    assert built.format == "onnx"
    assert built.manifest.training_digest == shapes.digest
    assert {(p.split, p.metric) for p in built.manifest.curves} == {
        ("train", "loss"), ("val", "map50"), ("val", "map50_95")
    }  # fmt: skip
    described = zoo.describe_artifact(built)
    assert described.class_names == CLASS_NAMES
    assert sum("epoch " in line and "left" in line for line in said) == 2
    said.clear()
    assert build(wanted, store, said.append).sha256 == built.sha256
    assert said == []
    assert not any((tmp_path / "resume").glob("*"))


def test_an_interrupted_build_goes_on(shapes: TrainingSpec, tmp_path: Path) -> None:
    """Stopped after the first of two epochs, the next build trains one and ends the same."""
    whole = build(
        request(model(step("train", **SHORT)), shapes), ArtifactStore(tmp_path / "a"), print
    )
    store = ArtifactStore(tmp_path / "b")

    def stop(text: str) -> None:
        if "epoch 1/2" in text:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        build(request(model(step("train", **SHORT)), shapes), store, stop)
    assert len(list((store.root / "resume").iterdir())) == 1
    said: list[str] = []
    again = build(request(model(step("train", **SHORT)), shapes), store, said.append)
    assert any("going on after epoch 1" in line for line in said)
    assert again.sha256 == whole.sha256
    assert not any((store.root / "resume").iterdir())


def test_fine_tuning_follows_training_with_its_own_defaults(
    shapes: TrainingSpec, tmp_path: Path
) -> None:
    """Both curves are kept, one after the other; fine-tuning is slower and shorter."""
    tuned = step("finetune", epochs=1, batch=4, val_images=0, amp="off")
    assert tuned.params["lr"] < step("train").params["lr"]
    spec = model(step("train", **SHORT), tuned)
    built = build(request(spec, shapes), ArtifactStore(tmp_path), lambda _: None)
    losses = [point.epoch for point in built.manifest.curves if point.metric == "loss"]
    assert losses == [1, 2, 1]


def test_another_number_of_classes_names_the_step_and_what_to_write(
    shapes: TrainingSpec, tmp_path: Path
) -> None:
    """A network for 20 classes is not trained on 6."""
    wanted = request(model(step("train", **SHORT), classes=20), shapes)
    with pytest.raises(BuildFailed, match=r"step train: .*20 classes.*has 6.*num_classes: 6"):
        build(wanted, ArtifactStore(tmp_path), lambda _: None)


def test_a_student_is_taught_by_another_model(shapes: TrainingSpec, tmp_path: Path) -> None:
    """The teacher is built first, with its own steps; random teachers are refused."""
    store = ArtifactStore(tmp_path)
    quick = step("train", epochs=1, batch=4, val_images=0, amp="off")
    taught = step("distill", teacher="big", epochs=1, batch=4, val_images=0, amp="off")
    said: list[str] = []
    built = build(request(model(taught), shapes, big=model(quick)), store, said.append)
    names = [record.name for record in built.manifest.steps]
    assert names == ["create", "distill", "export_net"]
    assert any("step train" in line for line in said)
    with pytest.raises(BuildFailed, match=r"teacher 'big' has random weights"):
        build(request(model(taught), shapes, big=model()), store, lambda _: None)
    with pytest.raises(BuildFailed, match=r"no model named 'big'"):
        build(request(model(taught), shapes), store, lambda _: None)


def test_training_without_data_is_refused(tmp_path: Path) -> None:
    """The message says where to name the images."""
    with pytest.raises(BuildFailed, match="training:"):
        build(request(model(step("train")), None), ArtifactStore(tmp_path), lambda _: None)
