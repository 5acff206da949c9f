from __future__ import annotations

from pathlib import Path

import pytest

from orchestrator import experiment, experimentfile, profiles
from orchestrator.errors import ExperimentError, UnknownName
from orchestrator.experiment import CalibrationSource, DataSource

SMALL = "models: [tinydet]\nrecipes: [fp32, int8_ptq]\n"


def read(folder: Path, text: str) -> experiment.Experiment:
    path = folder / "mine.yaml"
    path.write_text(text)
    return experimentfile.read(path)


def test_the_demo_shows_four_variants_of_the_shipped_detector() -> None:
    """The shipped demo is the detector in four variants, scored on 64 procedural images."""
    demo = experimentfile.load("demo", Path("/nowhere"))
    assert [entry.reference for entry in demo.models] == ["tinydet"]
    assert demo.recipes == ("fp32", "ort_format", "int8_ptq", "int8_ptq_all")
    assert demo.baseline == "fp32"
    assert demo.data == DataSource("shapes", "shapes", "val")
    assert demo.calibration is not None
    assert demo.calibration.split != demo.data.split
    assert (demo.profile.name, demo.profile.blocks, demo.profile.accuracy_images) == ("demo", 3, 64)
    assert demo.profile.min_samples >= 662


def test_every_shipped_experiment_can_be_read() -> None:
    """Each shipped experiment is valid and called after its file."""
    assert "demo" in experimentfile.names()
    for name in experimentfile.names():
        assert experimentfile.load(name, Path("/nowhere")).name == name


def test_a_small_experiment_gets_the_documented_defaults(tmp_path: Path) -> None:
    """What an experiment leaves out has its documented default."""
    mine = read(tmp_path, SMALL)
    assert mine.name == "mine"
    assert mine.profile == profiles.PROFILES["quick"]
    assert (mine.data, mine.calibration) == (None, None)
    assert mine.baseline == "fp32"
    assert mine.options.threads is None
    assert mine.cooldown == experiment.Cooldown(60.0, 300.0)
    assert mine.accuracy_cap_s == 600.0
    assert mine.scenario == experiment.ScenarioChoice("single_stream", None)


def test_an_experiment_says_everything_itself(tmp_path: Path) -> None:
    """Every field of the file reaches the experiment, with paths from the file's folder."""
    mine = read(
        tmp_path,
        """
description: All of it
models:
  - tinydet
  - {model: nets/yolo.onnx, shapes: {images: [1, 3, 320, 320]}, imgsz: 320}
  - {model: ./nets/yolo.onnx, name: again}
recipes: [fp32, ./own/mix.yaml]
baseline: mix
data: {source: photos, layout: voc, split: val}
calibration: {source: /data/plain, layout: images, images: 8}
profile: smoke
blocks: 7
accuracy: {images: 0, cap_s: 5}
options: {threads: 2, allow_spinning: false}
cooldown: {max_temp_c: 55}
scenario: {name: sustained, duration_s: 600}
""",
    )
    assert [entry.name for entry in mine.models] == ["tinydet", "yolo", "again"]
    assert mine.model("yolo").shapes == {"images": (1, 3, 320, 320)}
    assert mine.model("yolo").imgsz == 320
    assert mine.recipes == ("fp32", str(tmp_path / "own" / "mix.yaml"))
    assert mine.baseline == "mix"
    assert mine.data == DataSource(str(tmp_path / "photos"), "voc", "val")
    assert mine.calibration == CalibrationSource("/data/plain", "images", "train", 8)
    assert (mine.profile.name, mine.profile.blocks, mine.profile.accuracy_images) == ("smoke", 7, 0)
    assert mine.accuracy_cap_s == 5.0
    assert (mine.options.threads, mine.options.allow_spinning) == (2, False)
    assert mine.cooldown == experiment.Cooldown(55.0, 300.0)
    assert mine.scenario == experiment.ScenarioChoice("sustained", 600.0)
    assert mine.base_dir == tmp_path
    assert read(tmp_path, SMALL + "cooldown: null\n").cooldown is None


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("recipes: [fp32]\n", ":1: models: this field is missing"),
        ("models: []\nrecipes: [fp32]\n", ":1: models: expected at least one"),
        ("models: [a]\nrecipes: []\n", ":2: recipes: expected at least one"),
        ("models: [a]\nrecipes: [fp32, fp32]\n", ":2: recipes: 'fp32' stands twice"),
        ("models: [a, x/a.onnx, x/a.pt]\nrecipes: [fp32]\n", ":1: models: 'a' stands twice"),
        (SMALL + "baseline: fp23\n", ":3: baseline: no recipe 'fp23'; did you mean 'fp32'?"),
        (SMALL + "profile: quik\n", ":3: profile: no profile 'quik'; did you mean 'quick'?"),
        (SMALL + "blocks: 0\n", ":3: blocks: expected a whole number >= 1, found '0'"),
        (SMALL + "accuracy: {image: 4}\n", ":3: accuracy.image: there is no such field; did you"),
        (
            SMALL + "data: {source: x, layout: cocoa}\n",
            ":3: data.layout: expected one of auto",
        ),
        (SMALL + "data: {layout: voc}\n", ":3: data.source: this field is missing"),
        (SMALL + "data: x\n", ":3: data: expected a mapping, found 'x'"),
        (SMALL + "calibration: {source: x, images: -1}\n", ":3: calibration.images: expected a wh"),
        (SMALL + "options: {threads: all}\n", ":3: options.threads: expected a whole number, fou"),
        (
            SMALL + "scenario: {name: sustained}\n",
            ":3: scenario: duration_s: this field is missing",
        ),
        (
            SMALL + "scenario: {duration_s: 5}\n",
            ":3: scenario.duration_s: only 'sustained' lasts a given time",
        ),
        (
            SMALL + "scenario: {name: sustained, duration_s: 0}\n",
            ":3: scenario.duration_s: expected a number > 0",
        ),
        (
            SMALL + "scenario: {name: sustained, duration_s: 100000}\n",
            ":3: scenario.duration_s: expected a number <= 86400",
        ),
        (SMALL + "scenario: {name: offline}\n", ":3: scenario.name: expected one of single_stream"),
        (SMALL + "model: x\n", ":3: model: there is no such field; did you mean 'models'?"),
        (
            "models: [{model: a, shapes: {x: [1, wide]}}]\nrecipes: [fp32]\n",
            ":1: models.0.shapes.x.1: expected a whole number, found 'wide'",
        ),
    ],
)
def test_a_malformed_experiment_is_answered_with_line_and_field(
    tmp_path: Path, text: str, expected: str
) -> None:
    """Each mistake gives file, line, field, what was found and what is expected."""
    with pytest.raises(ExperimentError) as caught:
        read(tmp_path, text)
    assert str(caught.value).startswith(f"{tmp_path / 'mine.yaml'}{expected}")


def test_a_cap_below_the_minimum_is_refused(tmp_path: Path) -> None:
    """An inline profile whose cap is under its minimum time contradicts itself."""
    inline = (
        "profile: {min_samples: 1, min_duration_s: 9, max_duration_s: 3, "
        "warmup_min_samples: 0, warmup_min_duration_s: 0}\n"
    )
    with pytest.raises(ExperimentError, match=r"max_duration_s: expected at least min_duration_s"):
        read(tmp_path, SMALL + inline)


def test_an_unknown_name_is_answered_with_the_nearest(tmp_path: Path) -> None:
    """A mistyped name of an experiment gets the nearest one, a missing file its path."""
    with pytest.raises(UnknownName, match="no experiment 'dmeo'; did you mean 'demo'"):
        experimentfile.load("dmeo", tmp_path)
    with pytest.raises(ExperimentError, match=r"absent\.yaml: cannot be read"):
        experimentfile.load("absent.yaml", tmp_path)


def test_a_path_is_read_from_the_given_folder(tmp_path: Path) -> None:
    """A text with a slash or a YAML ending is a path, from the folder that is given."""
    (tmp_path / "demo.yaml").write_text(SMALL)
    assert experimentfile.load("demo.yaml", tmp_path).base_dir == tmp_path
    assert experimentfile.load("./demo.yaml", tmp_path).recipes == ("fp32", "int8_ptq")
    assert len(experimentfile.load("demo", tmp_path).recipes) == 4


def test_an_experiment_of_ones_own_model(tmp_path: Path) -> None:
    """`adhoc` makes an experiment from what the command line says."""
    mine = experiment.adhoc(
        "net.onnx",
        ["int8_ptq", "fp32"],
        base_dir=tmp_path,
        data="photos",
        calibration="shapes",
        shapes={"x": (1, 3, 8, 8)},
        profile="smoke",
    )
    assert mine.models[0].reference == "net.onnx"
    assert mine.models[0].shapes == {"x": (1, 3, 8, 8)}
    assert mine.data == DataSource(str(tmp_path / "photos"))
    assert mine.calibration == CalibrationSource("shapes", "shapes")
    assert mine.baseline == "fp32"
    assert mine.profile.name == "smoke"
    assert experiment.adhoc("m", ["int8_ptq"], base_dir=tmp_path).baseline == "int8_ptq"


def test_a_contradicting_ad_hoc_experiment_is_refused(tmp_path: Path) -> None:
    """No recipe, a recipe twice and an unknown profile are refused."""
    with pytest.raises(ExperimentError, match="at least one recipe"):
        experiment.adhoc("m", [], base_dir=tmp_path)
    with pytest.raises(ExperimentError, match="'fp32' stands twice"):
        experiment.adhoc("m", ["fp32", "x", "fp32"], base_dir=tmp_path)
    with pytest.raises(UnknownName, match="did you mean 'smoke'"):
        experiment.adhoc("m", ["fp32"], base_dir=tmp_path, profile="smok")


def test_a_named_profile_replaces_times_blocks_and_images() -> None:
    """`--profile smoke` turns the demo into one block of 8 samples and 4 images."""
    demo = experiment.with_profile(experimentfile.load("demo", Path("/")), "smoke")
    assert demo.profile == profiles.PROFILES["smoke"]
    assert (demo.profile.min_samples, demo.profile.accuracy_images, demo.profile.blocks) == (
        8,
        4,
        1,
    )


def test_the_profiles_are_the_documented_ones() -> None:
    """quick and normal follow MLPerf Mobile's minimums, and every cap leaves room for them."""
    quick, normal = profiles.PROFILES["quick"], profiles.PROFILES["normal"]
    assert (quick.min_samples, quick.min_duration_s, quick.max_duration_s) == (64, 10.0, 600.0)
    assert (normal.min_samples, normal.min_duration_s, normal.max_duration_s) == (1024, 60.0, 600.0)
    assert (quick.blocks, normal.blocks) == (3, 5)
    scenario = profiles.scenario(quick)
    assert scenario.min_duration_ns == 10_000_000_000
    assert scenario.max_duration_ns == 600_000_000_000
    for profile in profiles.PROFILES.values():
        assert profile.max_duration_s > profile.min_duration_s
