"""What an experiment names is found, or refused, before any board is contacted."""

from __future__ import annotations

import dataclasses
import hashlib
from pathlib import Path

import numpy as np
import pytest
from support.jobs import PROFILE, adhoc, picture, prepare, voc, workspace
from support.onnxmodels import tiny_model

from models import chain, recipes
from models.errors import BuildFailed, DataError, ModelNotFound, ModelUnreadable, RecipeError
from orchestrator import imagesets
from orchestrator import prepare as preparing
from orchestrator.errors import ExperimentError
from orchestrator.experiment import CalibrationSource, DataSource, Experiment, TrainingSource

NAMES = ("circle", "ring", "square")


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return voc(tmp_path / "voc", NAMES, {"val": 6, "train": 5})


def calibrated(folder: Path, source: CalibrationSource | None, data: Path | None) -> Experiment:
    made = adhoc(folder, "tinydet", ("int8_ptq",), data=None if data is None else str(data))
    return dataclasses.replace(made, calibration=source)


# ---------------------------------------------------------------- models and recipes


def test_latency_only(tmp_path: Path) -> None:
    """A plain model without data needs neither images nor calibration."""
    tiny_model(tmp_path / "tiny.onnx")
    ready = prepare(tmp_path, adhoc(tmp_path, "tiny.onnx"))
    assert (ready.scored, ready.calibration_images) == (None, ())
    assert ready.calibration_for(ready.models["tiny"]) is None
    assert ready.recipes.keys() == {"fp32"}


def test_unknown_model(tmp_path: Path) -> None:
    """A model that is not there is refused with the nearest name."""
    with pytest.raises(ModelNotFound, match="tinydet"):
        prepare(tmp_path, adhoc(tmp_path, "tinydt"))


def test_corrupt_model(tmp_path: Path) -> None:
    """A file that is no model is refused by name."""
    (tmp_path / "bad.onnx").write_bytes(tiny_model(tmp_path / "good.onnx").read_bytes()[:-50])
    with pytest.raises(ModelUnreadable, match=r"bad\.onnx"):
        prepare(tmp_path, adhoc(tmp_path, "bad.onnx"))


def test_unknown_recipe(tmp_path: Path) -> None:
    """A recipe that does not exist is refused with the nearest name."""
    with pytest.raises(RecipeError, match="int8_ptq"):
        prepare(tmp_path, adhoc(tmp_path, "tinydet", ("int8_pt",)))


def test_absent_tools_are_told_before_anything_is_built(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A recipe whose last steps need what is not installed is named at once, and no other is."""
    version = chain.tool_version
    monkeypatch.setattr(
        chain, "tool_version", lambda tool: "absent" if tool == "onnxruntime" else version(tool)
    )
    lines: list[str] = []
    experiment = adhoc(tmp_path, "tinydet", ("fp32", "ort_format"))
    preparing.resolve(experiment, workspace(tmp_path), lines.append)
    assert lines == ["recipe 'ort_format' cannot be built here: onnxruntime not installed"]


@pytest.mark.parametrize("teacher", ["student", "nobody"])
def test_a_teacher_that_is_not_there_is_refused_at_once(tmp_path: Path, teacher: str) -> None:
    """Also where a builder would do the work: before anything is planned or shown."""
    steps = recipes.parse_steps([{"step": "distill", "teacher": teacher}], "here")
    made = adhoc(tmp_path, "tinydet")
    entry = dataclasses.replace(made.models[0], name="student", steps=steps)
    training = TrainingSource("shapes", images=4, val_split=None)
    made = dataclasses.replace(made, models=(entry,), recipes=("fp32",), training=training)
    with pytest.raises(BuildFailed, match=f"'{teacher}' to learn from"):
        preparing.resolve(made, workspace(tmp_path), lambda _: None, elsewhere=True)


# ---------------------------------------------------------------- data


def test_scored_subset(tmp_path: Path, data: Path) -> None:
    """The subset has as many images as the profile says, each with the digest of its file."""
    scored = prepare(tmp_path, adhoc(tmp_path, "tinydet", data=str(data))).scored
    assert scored is not None
    assert (len(scored.subset.images), scored.total_images) == (PROFILE.accuracy_images, 6)
    assert scored.subset.name == "voc/val"
    for image in scored.subset.images:
        file = scored.files[image.image_id]
        assert file.sha256 == hashlib.sha256(image.path.read_bytes()).hexdigest()
        assert file.size_bytes == image.path.stat().st_size
    refs = scored.refs(3)
    assert [ref.image_id for ref in refs] == [image.image_id for image in scored.subset.images[:3]]
    assert refs[0].sha256 == scored.files[refs[0].image_id].sha256


def test_the_same_subset_every_time(tmp_path: Path, data: Path) -> None:
    """Every run scores the same images, so that figures of different runs can be compared."""
    first, second = (
        prepare(tmp_path, adhoc(tmp_path, "tinydet", data=str(data))).scored for _ in range(2)
    )
    assert first is not None
    assert first == second


def test_a_profile_without_accuracy(tmp_path: Path, data: Path) -> None:
    """A profile of no images reads no data at all."""
    made = adhoc(tmp_path, "tinydet", data=str(data))
    profile = dataclasses.replace(PROFILE, accuracy_images=0)
    assert prepare(tmp_path, dataclasses.replace(made, profile=profile)).scored is None


@pytest.mark.parametrize("name", ["absent", "empty", "voc/JPEGImages"])
def test_wrong_image_folder(tmp_path: Path, data: Path, name: str) -> None:
    """A folder that holds no data set is refused with what was looked for."""
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match=r"looked for|no such"):
        prepare(tmp_path, adhoc(tmp_path, "tinydet", data=name))


def test_unknown_split(tmp_path: Path, data: Path) -> None:
    """A split that the data set does not have is refused with those it has."""
    made = dataclasses.replace(adhoc(tmp_path, "tinydet"), data=DataSource(str(data), split="tset"))
    with pytest.raises(DataError, match="train, val"):
        prepare(tmp_path, made)


def test_data_of_other_classes(tmp_path: Path) -> None:
    """A data set that shares no class with the model is refused before anything is measured."""
    other = voc(tmp_path / "voc", ("bus", "tram"), {"val": 2})
    with pytest.raises(ExperimentError, match="no class is shared"):
        prepare(tmp_path, adhoc(tmp_path, "tinydet", data=str(other)))


def test_an_image_that_vanishes(tmp_path: Path) -> None:
    """A file that cannot be read is named."""
    with pytest.raises(DataError, match="No such file"):
        imagesets.file_of(tmp_path / "gone.png")


def test_reading_data_is_told(tmp_path: Path, data: Path) -> None:
    """Reading a data set, which may take long, is said."""
    lines: list[str] = []
    preparing.resolve(adhoc(tmp_path, "tinydet", data=str(data)), workspace(tmp_path), lines.append)
    assert lines == [f"data: reading {data} (val)"]


# ---------------------------------------------------------------- calibration


def test_calibration_from_the_other_split(tmp_path: Path, data: Path) -> None:
    """Without a source of its own, calibration takes the training split of the scored data."""
    ready = prepare(tmp_path, calibrated(tmp_path, None, data))
    assert {path.stem for path in ready.calibration_images} == {f"train{n}" for n in range(5)}
    spec = ready.calibration_for(ready.models["tinydet"])
    assert spec is not None
    assert spec.prep == ready.models["tinydet"].prep


def test_no_calibration_at_all(tmp_path: Path) -> None:
    """Quantization without any images is refused with the option to give."""
    with pytest.raises(ExperimentError, match=r"'int8_ptq' .* --calibration"):
        prepare(tmp_path, calibrated(tmp_path, None, None))


def test_scored_on_the_training_split(tmp_path: Path, data: Path) -> None:
    """Where the training split is what is scored, calibration does not quietly take it."""
    made = dataclasses.replace(
        calibrated(tmp_path, None, None), data=DataSource(str(data), split="train")
    )
    with pytest.raises(ExperimentError, match="--calibration"):
        prepare(tmp_path, made)


def test_calibration_from_the_scored_split(tmp_path: Path, data: Path) -> None:
    """Calibrating on the split that is scored is refused also when it is asked for by name."""
    source = CalibrationSource(str(data), split="val")
    with pytest.raises(ExperimentError, match=r"split 'val' of .* is what accuracy is measured on"):
        prepare(tmp_path, calibrated(tmp_path, source, data))


def test_scored_images_are_no_calibration_by_another_path(tmp_path: Path, data: Path) -> None:
    """A folder of the same images, or another way to the same set, is not taken for another."""
    (tmp_path / "link").symlink_to(data)
    plain = CalibrationSource(str(data / "JPEGImages"))
    with pytest.raises(ExperimentError, match=r"4 of 11 images are among those"):
        prepare(tmp_path, calibrated(tmp_path, plain, data))
    linked = CalibrationSource(str(tmp_path / "link"), split="val")
    with pytest.raises(ExperimentError, match=r"split 'val' of .* is what accuracy is measured on"):
        prepare(tmp_path, calibrated(tmp_path, linked, data))


def test_calibration_count_and_choice(tmp_path: Path, data: Path) -> None:
    """As many images as asked for are chosen, and always the same ones."""
    source = CalibrationSource(str(data), split="train", images=2)
    first, second = (prepare(tmp_path, calibrated(tmp_path, source, data)) for _ in range(2))
    assert len(first.calibration_images) == 2
    assert first.calibration_images == second.calibration_images


@pytest.mark.parametrize("plain", [False, True])
def test_calibration_images_follow_the_seed(tmp_path: Path, data: Path, plain: bool) -> None:
    """Another seed draws others of the same images, from a labelled set and a plain folder."""
    folder = data
    if plain:
        folder = tmp_path / "plain"
        folder.mkdir()
        for number in range(9):
            picture(folder / f"{number}.png", number)

    def drawn(seed: int) -> tuple[Path, ...]:
        source = CalibrationSource(str(folder), split="train", images=2, seed=seed)
        return prepare(tmp_path, calibrated(tmp_path, source, None)).calibration_images

    assert drawn(1) == drawn(1)
    assert len({drawn(seed) for seed in range(8)}) > 2


@pytest.mark.parametrize("layout", ["auto", "images"])
def test_plain_folder_of_images(tmp_path: Path, layout: str) -> None:
    """A folder of images without labels will do for calibration; the choice ignores its path."""
    chosen = []
    for name in ("here", "there"):
        folder = tmp_path / name
        folder.mkdir()
        for number in range(9):
            picture(folder / f"{number}.png", number)
        (folder / "notes.txt").write_text("no image")
        source = CalibrationSource(str(folder), layout, images=4)  # type: ignore[arg-type]
        ready = prepare(tmp_path, calibrated(tmp_path, source, None))
        chosen.append([path.name for path in ready.calibration_images])
    assert chosen[0] == chosen[1]
    assert len(chosen[0]) == 4
    assert chosen[0] == sorted(chosen[0])


def test_folder_of_tensors(tmp_path: Path) -> None:
    """A folder of .npy files will do for a model whose inputs are no images."""
    tiny_model(tmp_path / "tiny.onnx")
    folder = tmp_path / "tensors"
    folder.mkdir()
    for number in range(3):
        np.save(folder / f"{number}.npy", np.full((1, 3, 8, 8), number, np.float32))
    picture(folder / "preview.png", 1)
    source = CalibrationSource(str(folder))
    made = dataclasses.replace(adhoc(tmp_path, "tiny.onnx", ("int8_ptq",)), calibration=source)
    ready = prepare(tmp_path, made)
    assert [path.name for path in ready.calibration_images] == ["0.npy", "1.npy", "2.npy"]
    assert ready.calibration_for(ready.models["tiny"]) is not None


@pytest.mark.parametrize("name", ["absent", "empty"])
def test_wrong_calibration_folder(tmp_path: Path, name: str) -> None:
    """A calibration folder without images is refused."""
    (tmp_path / "empty").mkdir()
    source = CalibrationSource(str(tmp_path / name))
    with pytest.raises(DataError, match=name):
        prepare(tmp_path, calibrated(tmp_path, source, None))


def test_calibration_is_not_looked_for_in_vain(tmp_path: Path) -> None:
    """A source of calibration that no recipe needs is not even read."""
    made = dataclasses.replace(
        adhoc(tmp_path, "tinydet"), calibration=CalibrationSource(str(tmp_path / "absent"))
    )
    assert prepare(tmp_path, made).calibration_images == ()
