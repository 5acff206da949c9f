"""What a run would do, from the inventory and from what the database remembers of boards."""

from __future__ import annotations

import dataclasses
import io
import os
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from rich.console import Console
from support.jobs import adhoc, prepare, workspace
from support.onnxmodels import tiny_model
from support.stored import LATENCY_MS, fill

from models import estimate
from models.estimate import Speed
from models.steps.isa import host_isa
from models.store import ArtifactStore
from orchestrator import experimentfile
from orchestrator.assign import build_all
from orchestrator.dryrun import Memory, foresee, recall, show
from orchestrator.errors import ExperimentError
from orchestrator.experiment import ScenarioChoice
from orchestrator.inventory import BoardEntry
from orchestrator.plan import RunRequest, estimate_seconds
from orchestrator.prepare import resolve
from results.store import Store

LOCAL = BoardEntry("local", "local")
PI5 = BoardEntry("pi5", "ssh", "10.0.0.5")
NEW = BoardEntry("new", "ssh", "10.0.0.9")
REQUEST = RunRequest("r1", 7, "all")


@pytest.fixture(scope="module")
def past(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    """A database with two runs, in which pi5 was measured; only read here."""
    path = fill(tmp_path_factory.mktemp("past") / "results.sqlite")
    with Store.open(path, create=False, read_only=True) as store:
        yield store


def one(store: Store | None, entry: BoardEntry, *models: str) -> Memory:
    return recall(store, [entry], list(models))[entry.name]


# ---------------------------------------------------------------- what is remembered


def test_seen_before(past: Store) -> None:
    """A board that was seen is taken for what it was last, and the origin says when that was."""
    memory = one(past, PI5, "tinydet")
    assert memory.facts.isa == "aarch64-dotprod"
    assert memory.facts.cpu_count == 4
    assert memory.origin.startswith("seen 2026-01-02")


def test_known_latencies(past: Store) -> None:
    """The newest medians of the experiment's models are known, and no others."""
    known = one(past, PI5, "tinydet").latency_ns
    expected_ms = LATENCY_MS["pi5", "fp32"]
    assert known["tinydet", "fp32"] == pytest.approx(expected_ms * 1e6, rel=0.01)
    assert known.keys() == {("tinydet", "fp32"), ("tinydet", "int8_ptq")}
    assert one(past, PI5, "other").latency_ns == {}


def test_this_machine() -> None:
    """This machine is known without having been seen."""
    memory = one(None, LOCAL)
    assert (memory.facts.isa, memory.origin) == (host_isa(), "this machine")
    assert memory.facts.cpu_count == os.cpu_count()


@pytest.mark.parametrize("seen", [True, False])
def test_assumed(seen: bool, past: Store) -> None:
    """A board that was never seen is taken for what the inventory says, or for a Raspberry Pi."""
    store = past if seen else None
    memory = one(store, BoardEntry("new", "ssh", "h", arch="aarch64-dotprod", threads=2))
    assert (memory.facts.isa, memory.origin) == ("aarch64-dotprod", "arch: in inventory")
    assert memory.facts.threads == 2
    memory = one(store, NEW)
    assert memory.facts.isa == "aarch64"
    assert "boards check" in memory.origin
    assert memory.latency_ns == {}


def test_wishes_of_the_inventory_survive(past: Store) -> None:
    """The inventory's threads hold for a board that was seen, too."""
    assert one(past, BoardEntry("pi5", "ssh", "h", threads=3)).facts.threads == 3


# ---------------------------------------------------------------- what is foreseen


def test_the_plan_of_the_run_itself(tmp_path: Path, past: Store) -> None:
    """A dry run shows the very trials, in the order, that a run with the same seed makes."""
    experiment = adhoc(tmp_path, "tinydet", ("fp32", "ort_format"))
    memories = recall(past, [PI5, NEW], ["tinydet"])
    first = foresee(REQUEST, experiment, [PI5, NEW], memories)
    again = foresee(REQUEST, experiment, [PI5, NEW], memories)
    assert first.plan == again.plan
    assert len(first.plan.boards["pi5"]) == 4
    assert first.plan.boards["pi5"][0].options.intra_op_num_threads == 4


def test_estimates(tmp_path: Path, past: Store) -> None:
    """A board with known medians is estimated from them, others from what is assumed."""
    experiment = adhoc(tmp_path, "tinydet")
    memories = recall(past, [PI5, NEW], ["tinydet"])
    foreseen = foresee(REQUEST, experiment, [PI5, NEW], memories)
    known = {("tinydet", "fp32"): memories["pi5"].latency_ns["tinydet", "fp32"]}
    assert foreseen.seconds("pi5") == estimate_seconds(foreseen.plan.boards["pi5"], known)
    assert foreseen.seconds("new") == estimate_seconds(foreseen.plan.boards["new"])


def shown(folder: Path, *, built: bool) -> str:
    tiny_model(folder / "tiny.onnx")
    experiment = adhoc(folder, "tiny.onnx")
    prepared, store = prepare(folder, experiment), ArtifactStore(workspace(folder).models)
    if built:
        build_all(prepared, ["aarch64"], store, lambda line: None)
    out = io.StringIO()
    foreseen = foresee(REQUEST, experiment, [NEW], recall(None, [NEW], []))
    show(Console(file=out, width=200), foreseen, prepared, store)
    return out.getvalue()


@pytest.mark.parametrize(("built", "words"), [(True, "built before"), (False, "to be built")])
def test_builds(tmp_path: Path, built: bool, words: str) -> None:
    """What is built already is told from what would be."""
    assert words in shown(tmp_path, built=built)


def test_a_sustained_trial_shows_its_one_duration(tmp_path: Path) -> None:
    """The time of a sustained trial is one figure, and it is what the estimate counts."""
    tiny_model(tmp_path / "tiny.onnx")
    choice = ScenarioChoice("sustained", 90.0)
    experiment = dataclasses.replace(adhoc(tmp_path, "tiny.onnx"), scenario=choice)
    prepared, store = prepare(tmp_path, experiment), ArtifactStore(workspace(tmp_path).models)
    foreseen = foresee(REQUEST, experiment, [NEW], recall(None, [NEW], []))
    out = io.StringIO()
    show(Console(file=out, width=200), foreseen, prepared, store)
    assert out.getvalue().count("90 (sustained)") == 2
    assert foreseen.seconds("new") > 180


def test_everything_is_shown(tmp_path: Path) -> None:
    """Every trial, the estimate with what it assumes, and the seed to say again are shown."""
    text = shown(tmp_path, built=False)
    assert text.count("tiny/fp32") == 2 + 1
    assert "estimate" in text
    assert "3 s to start" in text
    assert "--seed 7" in text
    assert "images (" not in text  # there is no data set


def test_an_estimate_without_any_measurement_is_called_a_guess(tmp_path: Path) -> None:
    """A variant that a board never ran is counted; one whose latency is known is not."""
    guess = "new: 1 of 1 variants were never measured there, so the estimate is a guess"
    assert guess in shown(tmp_path, built=False)
    experiment = adhoc(tmp_path, "tiny.onnx")
    facts = recall(None, [NEW], [])
    known = {"new": dataclasses.replace(facts["new"], latency_ns={("tiny", "fp32"): 1_000_000})}
    out, place = io.StringIO(), workspace(tmp_path)
    foreseen = foresee(REQUEST, experiment, [NEW], known)
    show(
        Console(file=out, width=200),
        foreseen,
        prepare(tmp_path, experiment),
        ArtifactStore(place.models),
    )
    assert "guess" not in out.getvalue()


# ---------------------------------------------------------------- without the data


def planned_in_full(
    folder: Path, name: str, speed: Speed | None, monkeypatch: pytest.MonkeyPatch
) -> str:
    """The dry run of a study at its full size, by someone who has not named the data."""
    monkeypatch.setattr(estimate, "speed_of", lambda _: speed)
    place, experiment = workspace(folder), experimentfile.load(name, folder, "full")
    prepared = resolve(experiment, place, lambda _: None, elsewhere=True, absent=True)
    foreseen = foresee(REQUEST, experiment, [NEW], recall(None, [NEW], []))
    out = io.StringIO()
    show(Console(file=out, width=200), foreseen, prepared, ArtifactStore(place.models))
    return out.getvalue()


@pytest.mark.parametrize(("device", "place"), [("cpu", "this processor"), ("cuda", "this GPU")])
def test_a_study_is_planned_without_its_data(
    device: str, place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The published numbers of images are reckoned with, and the plan says that data is needed."""
    text = planned_in_full(tmp_path, "yolov3-voc-quantization", Speed(0.01, device), monkeypatch)
    assert re.search(r"yolov3/fp32 +train +200 +16,551 +9:11:42", text)
    assert re.search(r"yolov3/qat +qat +10 +16,551 +27:35", text)
    assert f"about 9:39:17 on {place}" in text
    assert "--data DIR" in text


def test_a_study_of_unknown_size_is_planned_by_the_thousand(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where no number was published, the time is that of a thousand images, and in no sum."""
    text = planned_in_full(tmp_path, "unet-lightweight", Speed(0.01, "cpu"), monkeypatch)
    assert re.search(r"unet/litert +train +100 +- +16:40 per 1,000 images", text)
    assert "in all cannot be told" in text


def test_a_speed_that_cannot_be_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A network whose speed is unknown has an unknown time."""
    text = planned_in_full(tmp_path, "yolov8n-int8", None, monkeypatch)
    assert re.search(r"yolov8n\.pt/qat +qat +\d+ +[\d,]+ +unknown", text)


def test_a_run_is_refused_without_the_data(tmp_path: Path) -> None:
    """Only a plan goes without the data: whoever means to build or measure is told to name it."""
    experiment = experimentfile.load("yolov8n-int8", tmp_path, "full")
    with pytest.raises(ExperimentError, match="--data DIR"):
        resolve(experiment, workspace(tmp_path), lambda _: None, elsewhere=True)
