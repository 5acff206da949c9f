"""Experiments of several sizes, with recipes, steps and data of their own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from models.errors import RecipeError
from models.recipes import Recipe
from models.spec import StepSpec
from orchestrator import experiment, experimentfile
from orchestrator.errors import ExperimentError, UnknownName
from orchestrator.experiment import Experiment

STUDY = """\
models:
  - {model: unet, name: base, imgsz: 64, options: {width: 0.5}}
recipes:
  - fp32
  - {name: mine, description: Own, steps: [{step: int8_ptq}, {step: ort_format}]}
data: {source: blobs}
accuracy: {images: 16}
scales:
  smoke:
    accuracy: {cap_s: 7}
  full:
    models: [{model: unet, name: base, imgsz: 256}]
    data: {source: given, split: test}
    training: {source: given}
"""


@pytest.fixture
def study(tmp_path: Path) -> Path:
    path = tmp_path / "study.yaml"
    path.write_text(STUDY)
    return path


def test_the_first_scale_is_the_default(study: Path) -> None:
    """Without a scale the first one of the file is taken, merged over what all scales share."""
    found = experimentfile.read(study)
    assert found.scale == "smoke"
    assert (found.accuracy_cap_s, found.profile.accuracy_images) == (7, 16)
    assert found.models[0].options == {"width": 0.5}


def test_a_scale_replaces_lists_and_merges_mappings(study: Path) -> None:
    """A list of a scale stands for itself; a mapping adds to the common one."""
    found = experimentfile.read(study, "full")
    assert (found.models[0].imgsz, found.models[0].options) == (256, {})
    assert found.data == experiment.DataSource("given", split="test")
    assert found.profile.accuracy_images == 16


def test_an_unknown_scale_is_refused_with_the_nearest(study: Path) -> None:
    """A scale that the file lacks names those that it has."""
    with pytest.raises(UnknownName, match="smoke"):
        experimentfile.read(study, "smok")


def test_recipes_may_stand_in_the_experiment(study: Path) -> None:
    """A recipe with its steps stands beside those that are named, its defaults filled in."""
    found = experimentfile.read(study)
    assert found.recipes == ("fp32", "mine")
    (mine,) = found.own_recipes
    assert [step.name for step in mine.steps] == ["int8_ptq", "ort_format"]
    assert mine.steps[0].params["exclude"] == ["decode"]


@pytest.mark.parametrize(
    ("old", "new", "error", "words"),
    [
        ("step: int8_ptq", "step: int8_ptk", RecipeError, "did you mean 'int8_ptq'"),
        ("name: mine", "name: fp32", ExperimentError, "'fp32' stands twice"),
        ("[{step: int8_ptq}, {step: ort_format}]", "[{step: ort_format}, {step: int8_ptq}]",
         RecipeError, "change the order"),
        ("cap_s: 7", "cap: 7", ExperimentError, "study.yaml:10: accuracy.cap"),
    ],
)  # fmt: skip
def test_mistakes_are_named_with_their_place(
    study: Path, old: str, new: str, error: type[Exception], words: str
) -> None:
    """What is wrong in a recipe or a scale is refused where it stands."""
    study.write_text(STUDY.replace(old, new))
    with pytest.raises(error, match=words):
        experimentfile.read(study)


def test_given_data_is_what_the_command_line_names(study: Path, tmp_path: Path) -> None:
    """`source: given` becomes the folder of --data, everywhere at once."""
    found = experiment.with_data(experimentfile.read(study, "full"), "voc", tmp_path)
    assert found.data is not None
    assert found.training is not None
    assert found.data.source == found.training.source == str(tmp_path / "voc")


def test_given_data_may_be_a_procedural_set(study: Path, tmp_path: Path) -> None:
    """--data blobs means the set that is drawn here, as it does with --model, not a folder."""
    found = experiment.with_data(experimentfile.read(study, "full"), "blobs", tmp_path)
    assert found.data == experiment.DataSource("blobs", layout="blobs", split="test")


def test_a_scale_of_an_experiment_of_one_size_is_refused_in_words(tmp_path: Path) -> None:
    """The message does not list scales where there are none, but says to leave the option out."""
    with pytest.raises(UnknownName, match="demo has one size and no scale 'full'; leave it out"):
        experimentfile.load("demo", tmp_path, "full")


def test_data_is_refused_where_none_is_asked_for(study: Path, tmp_path: Path) -> None:
    """--data has no meaning for an experiment that brings its own."""
    with pytest.raises(ExperimentError, match="scale smoke"):
        experiment.with_data(experimentfile.read(study), "voc", tmp_path)


def test_steps_of_a_model_are_parsed_like_a_recipe(study: Path) -> None:
    """Steps of a model have their defaults filled in and their mistakes named."""
    study.write_text(STUDY.replace("options: {width: 0.5}", "steps: [{step: ort_format}]"))
    assert experimentfile.read(study).models[0].steps == (StepSpec("ort_format", {}),)
    study.write_text(STUDY.replace("options: {width: 0.5}", "steps: [{step: nothing}]"))
    with pytest.raises(RecipeError, match=r"model base: steps\[0\]"):
        experimentfile.read(study)


def test_some_of_the_recipes(study: Path) -> None:
    """--recipes keeps some recipes of an experiment, and names those that it has."""
    found = experimentfile.read(study)
    some = experiment.with_recipes(found, ["mine"])
    assert (some.recipes, some.baseline) == (("mine",), "mine")
    assert some.variants() == (("base", "mine"),)
    with pytest.raises(UnknownName, match="mine"):
        experiment.with_recipes(found, ["main"])


def test_a_model_may_have_recipes_of_its_own(study: Path) -> None:
    """A model that names recipes is measured with those alone; unknown ones are refused."""
    text = STUDY.replace("options: {width: 0.5}", "recipes: [mine]")
    study.write_text(text)
    assert experimentfile.read(study).variants() == (("base", "mine"),)
    study.write_text(text.replace("recipes: [mine]", "recipes: [main]"))
    with pytest.raises(ExperimentError, match="did you mean 'mine'"):
        experimentfile.read(study)


# ---------------------------------------------------------------- the published set-ups


def shipped(name: str, scale: str = "full") -> Experiment:
    return experimentfile.load(name, Path("/"), scale)


def own(found: Experiment, name: str) -> Recipe:
    (recipe,) = [recipe for recipe in found.own_recipes if recipe.name == name]
    return recipe


def params(steps: tuple[StepSpec, ...], name: str) -> dict[str, Any]:
    """Of the one step of that name."""
    (step,) = [step for step in steps if step.name == name]
    return step.params


def test_yolov3_on_voc_is_set_up_as_published() -> None:
    """Input, classes, training, calibration, QAT and cuts are those that were printed."""
    found = shipped("yolov3-voc-quantization")
    (model,) = found.models
    assert (model.reference, model.imgsz, model.options) == ("yolov3", 416, {"num_classes": 20})
    assert [step.name for step in model.steps] == ["train"]
    train = params(model.steps, "train")
    assert (train["optimizer"], train["lr"], train["epochs"]) == ("adam", 1e-3, 200)
    assert (train["schedule"], train["gamma"], train["step_epochs"]) == ("step", 0.8, 10)
    assert found.recipes == (
        "fp32", "int8_ptq", "qat", "int8_backbone", "int8_neck", "int8_head"
    )  # fmt: skip
    assert params(own(found, "qat").steps, "qat")["epochs"] == 10
    assert found.calibration == experiment.CalibrationSource("given", split="train", images=2000)
    assert found.training is not None
    assert (found.training.split, found.training.images) == ("train", None)
    assert found.training.published_images == 16_551
    assert found.data == experiment.DataSource("given", split="test")
    assert found.profile.accuracy_images == 4952


def test_yolov9_is_set_up_as_published() -> None:
    """YOLOv9-c has its weights and is pruned by a fifth; redesigned it learns for 300 epochs."""
    found = shipped("yolov9-deployment")
    whole, redesigned = found.models
    assert (whole.reference, whole.options, whole.steps) == ("yolov9c.pt", {}, ())
    assert redesigned.reference == "yolov9c.yaml"
    assert params(redesigned.steps, "train")["epochs"] == 300
    assert found.baseline == "torch_eager"
    assert {"fp32", "ort_format", "int8_dynamic", "int8_ptq", "qat"} < set(found.recipes)
    pruned = own(found, "pruned20_eager")
    assert pruned.runtime == "torch"
    assert [step.name for step in pruned.steps] == ["prune", "finetune"]
    assert params(pruned.steps, "prune")["ratio"] == 0.2
    assert found.profile.accuracy_images == 5000  # val2017 of COCO
    assert found.training is not None
    assert found.training.published_images == 118_287


@pytest.mark.parametrize("scale", ["smoke", "full"])
def test_the_redesigned_yolov9_is_the_published_one_at_both_scales(scale: str) -> None:
    """No layer is wider than 128, SiLU becomes LeakyReLU before training, a branch helps it."""
    found = shipped("yolov9-deployment", scale)
    _, redesigned = found.models
    assert redesigned.name.endswith("-redesigned")
    assert redesigned.options["max_channels"] == 128
    assert [step.name for step in redesigned.steps] == ["swap_activation", "train"]
    swap = params(redesigned.steps, "swap_activation")
    assert (swap["old"], swap["new"]) == (["silu"], "leaky_relu")
    assert params(redesigned.steps, "train")["aux"] == 0.25
    assert not any(step.params.get("aux") for step in found.models[0].steps)


def test_yolov8n_is_set_up_as_published() -> None:
    """YOLOv8n keeps its weights and is measured in FP32, by PTQ and by QAT."""
    found = shipped("yolov8n-int8")
    (model,) = found.models
    assert (model.reference, model.imgsz, model.options, model.steps) == (
        "yolov8n.pt",
        None,
        {},
        (),
    )
    assert {"fp32", "int8_ptq", "qat"} < set(found.recipes)
    assert [step.name for step in own(found, "qat").steps] == ["qat", "export_int8"]
    assert found.baseline == "fp32"


def test_the_unets_are_set_up_as_published() -> None:
    """The base of full width, its five published variants, LiteRT and PTQ are there."""
    found = shipped("unet-lightweight")
    models = {model.name: model for model in found.models}
    assert models.keys() > {"unet", "unet-lite", "unet-shuffle", "unet-group", "unet-dilated"}
    assert all(model.options == {} for model in models.values())
    assert {model.imgsz for model in models.values()} == {256}
    assert all(params(m.steps, m.steps[0].name)["epochs"] == 100 for m in models.values())
    taught = params(models["unet-lite-distilled"].steps, "distill")
    assert taught["teacher"] == "unet"
    assert found.baseline == "litert"
    assert {("unet", "litert_int8"), ("unet", "qat"), ("unet-group", "litert")} < set(
        found.variants()
    )
