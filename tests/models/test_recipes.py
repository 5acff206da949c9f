"""Shipped recipes, a user's own, and what is said of wrong ones."""

from __future__ import annotations

from pathlib import Path

import pytest

from models import recipes
from models.errors import RecipeError
from models.recipes import StepSpec


def write(folder: Path, text: str) -> Path:
    path = folder / "mine.yaml"
    path.write_text(text)
    return path


def test_the_shipped_recipes() -> None:
    """The recipes of the demo are shipped, and each recipe has a description."""
    demo = {"fp32", "int8_ptq", "int8_ptq_all", "int8_ptq_ort", "ort_format"}
    assert demo <= set(recipes.names())
    assert all(recipes.get(name).description for name in recipes.names())
    assert recipes.get("fp32").steps == ()
    assert not recipes.get("ort_format").needs_calibration
    assert [step.name for step in recipes.get("int8_ptq_ort").steps] == ["int8_ptq", "ort_format"]
    assert recipes.get("int8_ptq").steps[0].params["exclude"] == ["decode"]
    assert recipes.get("int8_ptq_all").steps[0].params["exclude"] == []
    assert recipes.get("int8_ptq_all").needs_calibration


@pytest.mark.parametrize("section", ["backbone", "neck", "head"])
def test_partial_recipes_quantize_one_section(section: str) -> None:
    """Each partial recipe names its section and leaves the decode in float."""
    (step,) = recipes.get(f"int8_{section}").steps
    assert step.name == "int8_ptq"
    assert (step.params["only"], step.params["exclude"]) == ([section], ["decode"])


def test_recipes_that_are_not_faster_say_so() -> None:
    """What costs speed or accuracy is told before anybody measures it."""
    assert "slower than fp32" in recipes.get("int8_dynamic").description
    assert "slower" in recipes.get("fp16").description
    assert "no faster, and less accurate" in recipes.get("sparse70").description


def test_a_recipe_of_ones_own(tmp_path: Path) -> None:
    """A YAML file is a recipe named after it, its missing parameters filled in."""
    path = write(
        tmp_path, "steps:\n  - {step: int8_ptq, exclude: ['/model.22/*'], method: entropy}\n"
    )
    for reference, base in ((str(path), None), ("mine.yaml", tmp_path)):
        recipe = recipes.get(reference, base)
        assert recipe.name == "mine"
        assert recipe.steps == (
            StepSpec(
                "int8_ptq",
                {
                    "only": [],
                    "exclude": ["/model.22/*"],
                    "per_channel": True,
                    "reduce_range": False,
                    "activation": "auto",
                    "method": "entropy",
                    "percentile": 99.999,
                },
            ),
        )


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "expected fields description and steps, got None"),
        ("- int8_ptq", "expected fields"),
        ("steps: int8_ptq", "steps: expected a list"),
        ("description: x", r"steps: expected a list \(empty for none\), got None"),
        ("description: 3\nsteps: []", "description: expected text, got 3"),
        ("stepps: []", "unknown field 'stepps'; did you mean 'steps'"),
        ("steps: [int8_ptq]", r"steps\[0\]: expected `step:`"),
        ("steps: [{step: int8_ptqq}]", r"steps\[0\]\.step: .*did you mean 'int8_ptq'"),
        ("steps: [{step: export}]", "no step named 'export'"),
        ("steps: [{step: int8_ptq, exlude: []}]", "'exlude'; did you mean 'exclude'"),
        ("steps: [{step: int8_ptq, exclude: decode}]", r"steps\[0\]: Expected `array`"),
        ("steps: [{step: int8_ptq, per_channel: 1}]", r"Expected `bool`.*\$\.per_channel"),
        ("steps: [{step: int8_ptq, method: kl}]", r"Invalid enum value 'kl'.*\$\.method"),
        ("steps: [{step: ort_format, level: all}]", "unknown parameter of ort_format 'level'"),
        ("steps: [{step: ort_format}, {step: int8_ptq}]", r"steps\[1\]: int8_ptq takes an onnx"),
        ("steps: [{step: train, lr: .inf}]", r"steps\[0\]: lr: expected a finite number, got inf"),
        ("steps: [{step: fp16, only: [a], only: [b]}]", "not YAML: .*'only' stands there twice"),
        ("steps: []\nsteps: [{step: fp16}]", "not YAML: .*'steps' stands there twice.*line 1"),
        ("steps: [", "not YAML: .*line 1"),
        ("steps: !!python/object/apply:os.getcwd []", "not YAML"),
    ],
)
def test_wrong_recipes_are_refused(tmp_path: Path, text: str, said: str) -> None:
    """The error names the file, the field, what was expected, and the nearest match."""
    path = write(tmp_path, text)
    with pytest.raises(RecipeError, match=said) as caught:
        recipes.get(str(path))
    assert str(path) in str(caught.value)


def test_unknown_names_get_the_nearest(tmp_path: Path) -> None:
    """A mistyped name is answered with the nearest recipe, a missing file with its path."""
    with pytest.raises(RecipeError, match="did you mean 'int8_ptq'"):
        recipes.get("int8_pqt")
    with pytest.raises(RecipeError, match=r"no recipe file .*none\.yaml"):
        recipes.get(str(tmp_path / "none.yaml"))


def test_binary_files_are_refused(tmp_path: Path) -> None:
    """A recipe that is no text is refused as unreadable."""
    path = tmp_path / "mine.yaml"
    path.write_bytes(b"\xff\xfe\x00\x01")
    with pytest.raises(RecipeError, match=r"mine\.yaml"):
        recipes.get(str(path))


def test_a_student_needs_a_teacher() -> None:
    """Distillation that names no teacher is refused where it stands."""
    with pytest.raises(RecipeError, match=r"here: .*teacher: name the model"):
        recipes.parse_steps([{"step": "distill"}], "here")
