"""What a build has to train, and how long that takes."""

from __future__ import annotations

import dataclasses
import importlib.util
from pathlib import Path

import pytest

from models import estimate, recipes, zoo
from models.build import VariantRequest, remember_chain
from models.chain import links
from models.data.training import training_spec
from models.recipes import parse_steps
from models.spec import DataSpec
from models.store import ArtifactStore

SHAPES = DataSpec("shapes", "shapes", "train")


def requests(folder: Path) -> dict[str, VariantRequest]:
    """A trained network in FP32 and ORT format, and one that learns from it."""
    training = training_spec(SHAPES, None, 64, folder)
    train = parse_steps([{"step": "train", "epochs": 3}], "here")
    distill = parse_steps([{"step": "distill", "teacher": "big", "images": 10}], "here")
    big = zoo.resolve("tinydet", steps=train, need_extra=False)
    small = zoo.resolve("tinydet", steps=distill, imgsz=96, need_extra=False)
    wanted = {"big/fp32": (big, "fp32"), "big/ort": (big, "ort_format"), "small": (small, "fp32")}
    return {
        label: VariantRequest(
            model, recipes.get(recipe), "x86_64", training=training, others={"big": big}
        )
        for label, (model, recipe) in wanted.items()
    }


def test_each_training_is_counted_once(tmp_path: Path) -> None:
    """What several variants share is one training, under the first one's name; teachers count."""
    found = estimate.trainings(requests(tmp_path), ArtifactStore(tmp_path / "store"), 64)
    assert [(one.label, one.step, one.epochs, one.images) for one in found] == [
        ("big/fp32", "train", 3, 64),
        ("small", "distill", 10, 10),
    ]
    assert found[0].seen == 192


def test_what_was_trained_before_is_left_out(tmp_path: Path) -> None:
    """A training whose result is in the store takes no time."""
    asked, store = requests(tmp_path), ArtifactStore(tmp_path / "store")
    big = asked["big/fp32"]
    remember_chain(big, store, ["a" * 64 for _ in links(big)])
    assert len(estimate.trainings(asked, store, 64)) == 2  # a name without a file is no result
    (store.root / "artifacts" / "aa").mkdir(parents=True)
    (store.root / "artifacts" / "aa" / f"{'a' * 64}.net").touch()
    (left,) = estimate.trainings(asked, store, 64)
    assert left.step == "distill"


def test_images_that_nobody_can_count(tmp_path: Path) -> None:
    """Where the number of images is unknown a training has none, unless its step limits it."""
    big, small = estimate.trainings(requests(tmp_path), ArtifactStore(tmp_path / "store"), None)
    assert (big.images, big.seen) == (None, None)
    assert (small.images, small.seen) == (10, 100)


@pytest.mark.slow
def test_a_network_that_cannot_be_built_has_no_speed(tmp_path: Path) -> None:
    """What the child process cannot build is unknown, and no error of the dry run."""
    model = requests(tmp_path)["big/fp32"].model
    gone = dataclasses.replace(model.source, reference="no-such-net")
    assert estimate.speed_of(dataclasses.replace(model, source=gone)) is None


@pytest.mark.slow
@pytest.mark.torch
def test_a_networks_speed_is_measured(tmp_path: Path) -> None:
    """A network that can be built has a plausible time an image."""
    if importlib.util.find_spec("torch") is None:
        pytest.skip("timing a network needs torch: install the extra 'models'")
    model = requests(tmp_path)["big/fp32"].model
    speed = estimate.speed_of(model)
    assert speed is not None
    assert 1e-5 < speed.seconds < 60
    assert speed.device in ("cpu", "cuda")
