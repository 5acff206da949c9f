"""From a plan to each board's work: what is built, what cannot be, and what each trial needs."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import msgspec
import pytest
from support.jobs import adhoc, prepare, voc
from support.onnxmodels import tiny_model
from support.runs import CLOCK, fake_board

from agent import wire
from models.errors import BuildFailed, ModelsError
from models.manifest import Manifest
from models.spec import ModelSpec
from models.store import Artifact, ArtifactStore
from orchestrator.assign import Built, BuiltVariant, assign, build_all, requests
from orchestrator.errors import ExperimentError
from orchestrator.execute import Work
from orchestrator.experiment import Cooldown, ModelEntry
from orchestrator.past import Past
from orchestrator.plan import BoardFacts, Plan, RunRequest, make_plan
from orchestrator.prepare import TIMED_IMAGES, Prepared

NAMES = ("circle", "ring", "bus")


@dataclasses.dataclass
class Given:
    """A prepared experiment, a plan for one board, and artifacts that nobody built."""

    prepared: Prepared
    plan: Plan
    built: dict[tuple[str, str, str], BuiltVariant | wire.BenchError]

    def work(self, past: Past | None = None) -> tuple[Work, ...]:
        return tuple(self.assigned(past).work)

    def assigned(self, past: Past | None = None):  # type: ignore[no-untyped-def]
        prints = {"pi": fingerprint()}
        return assign(self.plan, self.prepared, prints, self.built, past or Past())["pi"]


def fingerprint() -> wire.Fingerprint:
    return fake_board("pi").agent._fingerprint()


def artifact(folder: Path, name: str) -> Artifact:
    """A file that stands for a built model; nothing here opens it."""
    path = folder / f"{name}.onnx"
    path.write_bytes(name.encode())
    return Artifact(name.encode().hex().ljust(64, "0")[:64], len(name), "onnx", path, manifest=None)  # type: ignore[arg-type]


def given(folder: Path, prepared: Prepared) -> Given:
    facts = {"pi": BoardFacts("aarch64-dotprod", 4)}
    plan = make_plan(RunRequest("r1", 7, "pi"), prepared.experiment, facts)
    built: dict[tuple[str, str, str], BuiltVariant | wire.BenchError] = {
        (model, recipe, "aarch64-dotprod"): BuiltVariant(
            artifact(folder, f"{model}-{recipe}"), prepared.models[model]
        )
        for model in prepared.models
        for recipe in prepared.recipes
    }
    return Given(prepared, plan, built)


@pytest.fixture
def detector(tmp_path: Path) -> Given:
    """The shipped detector on eight images, of which four are scored in the first of two blocks."""
    data = voc(tmp_path / "voc", NAMES, {"val": 8})
    return given(tmp_path, prepare(tmp_path, adhoc(tmp_path, "tinydet", data=str(data))))


def with_model(detector: Given, **changes: object) -> Given:
    """The same with another description of the model, as an export may bring it."""
    detector.built = {
        key: dataclasses.replace(variant, model=dataclasses.replace(variant.model, **changes))  # type: ignore[arg-type]
        for key, variant in detector.built.items()
        if isinstance(variant, BuiltVariant)
    }
    return detector


# ---------------------------------------------------------------- what each trial needs


def test_images_of_each_trial(detector: Given) -> None:
    """The first block is scored on the subset; every block is timed on the same real images."""
    first, second = detector.work()
    assert detector.prepared.scored is not None
    refs = detector.prepared.scored.refs(99)
    assert first.spec.evaluation is not None
    assert first.spec.evaluation.images == refs
    assert second.spec.evaluation is None
    assert first.spec.inputs == second.spec.inputs
    assert first.spec.inputs.images == refs[:TIMED_IMAGES]
    assert first.spec.inputs.prep == detector.prepared.models["tinydet"].prep


def test_files_of_each_trial(detector: Given) -> None:
    """A trial's files are its artifact and all images that it times or scores, and no others."""
    for work in detector.work():
        used = {image.sha256 for image in work.spec.inputs.images}
        if work.spec.evaluation is not None:
            used |= {image.sha256 for image in work.spec.evaluation.images}
        assert {file.sha256 for file in work.files} == used | {work.spec.artifact.sha256}


def test_a_spec_is_complete(detector: Given) -> None:
    """A trial's specification carries the plan's ids, options, times and seed."""
    for work, trial in zip(detector.work(), detector.plan.boards["pi"], strict=True):
        spec = work.spec
        assert (spec.trial_id, spec.run_id) == (trial.trial_id, "r1")
        assert (spec.options, spec.scenario) == (trial.options, trial.scenario)
        assert (spec.deadline_ns, spec.inputs.seed) == (trial.deadline_ns, 7)
        assert wire.decode(wire.encode(spec), wire.TrialSpec) == spec
        if spec.evaluation is not None:
            assert spec.evaluation.max_duration_ns == trial.evaluation_cap_ns > 0


def test_untrained(detector: Given) -> None:
    """Random weights are timed on real images but never scored."""
    for work in with_model(detector, trained=False).work():
        assert work.spec.evaluation is None
        assert work.spec.inputs.images
        assert len(work.files) == 1 + len(work.spec.inputs.images)


def test_no_decoder(detector: Given) -> None:
    """A model whose outputs nobody can decode is timed on real images but never scored."""
    assert all(work.spec.evaluation is None for work in with_model(detector, head=None).work())


def test_no_letterbox(detector: Given) -> None:
    """A model that takes no images is fed synthetic tensors of its own shapes."""
    shapes = {"tokens": (1, 16)}
    for work in with_model(detector, prep=None, shapes=shapes).work():
        assert work.spec.inputs == wire.Inputs(shapes=shapes, seed=7)
        assert work.spec.evaluation is None
        assert len(work.files) == 1


def test_no_data(tmp_path: Path) -> None:
    """Without data an image model is fed synthetic tensors, and only the artifact is pushed."""
    for work in given(tmp_path, prepare(tmp_path, adhoc(tmp_path, "tinydet"))).work():
        assert (work.spec.inputs.images, work.spec.inputs.prep) == ((), None)
        assert work.spec.evaluation is None
        assert len(work.files) == 1


# ---------------------------------------------------------------- what cannot be measured


def test_impossible_variants(detector: Given) -> None:
    """A variant that could not be built is named with the reason, for each of its trials."""
    detector.built["tinydet", "fp32", "aarch64-dotprod"] = BuildFailed("step export: no luck")
    todo = detector.assigned()
    assert todo.work == ()
    assert [reason for _, reason in todo.impossible] == ["step export: no luck"] * 2


def test_each_board_gets_its_own_instruction_set(tmp_path: Path) -> None:
    """Boards of different instruction sets get the artifacts built for theirs."""
    prepared = prepare(tmp_path, adhoc(tmp_path, "tinydet"))
    facts = {"pi5": BoardFacts("aarch64-dotprod", 4), "pi3": BoardFacts("aarch64", 4)}
    plan = make_plan(RunRequest("r1", 7, "all"), prepared.experiment, facts)
    built: Built = {
        ("tinydet", "fp32", isa): BuiltVariant(artifact(tmp_path, isa), prepared.models["tinydet"])
        for isa in ("aarch64", "aarch64-dotprod")
    }
    prints = {
        name: wire.decode(
            wire.encode(fake_board(name, isa=known.isa).agent._fingerprint()), wire.Fingerprint
        )
        for name, known in facts.items()
    }
    todo = assign(plan, prepared, prints, built, Past())
    found = {name: {w.files[0].path.stem for w in each.work} for name, each in todo.items()}
    assert found == {"pi5": {"aarch64-dotprod"}, "pi3": {"aarch64"}}


def test_gate(detector: Given) -> None:
    """The experiment's cool-down becomes the gate, and none means none."""
    assert detector.assigned().gate is None
    cooled = dataclasses.replace(
        detector.prepared.experiment, cooldown=Cooldown(max_temp_c=55.0, timeout_s=9.0)
    )
    detector.prepared = dataclasses.replace(detector.prepared, experiment=cooled)
    gate = detector.assigned().gate
    assert gate is not None
    assert (gate.max_temp_c, gate.timeout_s) == (55.0, 9.0)


def test_finished_trials_are_left_out(detector: Given) -> None:
    """What an earlier part of the run finished is not measured again; attempts are counted on."""
    first, second = detector.plan.boards["pi"]
    past = Past(finished=frozenset({("pi", first.trial_id)}), attempts={("pi", second.trial_id): 2})
    (work,) = detector.work(past)
    assert (work.trial, work.first_attempt) == (second, 3)


def test_pure(detector: Given) -> None:
    """The same arguments give the same assignment, and no time passes."""
    before = CLOCK.monotonic_s()
    assert detector.assigned() == detector.assigned()
    assert CLOCK.monotonic_s() == before


# ---------------------------------------------------------------- what has to exist


def test_requests(tmp_path: Path) -> None:
    """Every model, recipe and instruction set is asked for once; only INT8 wants calibration."""
    data = voc(tmp_path / "voc", NAMES, {"val": 2, "train": 3})
    ready = prepare(tmp_path, adhoc(tmp_path, "tinydet", ("fp32", "int8_ptq"), data=str(data)))
    wanted = requests(ready, ["x86_64", "aarch64", "x86_64"])
    assert sorted(wanted) == [
        ("tinydet", recipe, isa) for recipe in ("fp32", "int8_ptq") for isa in ("aarch64", "x86_64")
    ]
    for (_, recipe, _), request in wanted.items():
        assert (request.calibration is not None) == (recipe == "int8_ptq")


@pytest.fixture
def store(tmp_path: Path) -> ArtifactStore:
    return ArtifactStore(tmp_path / "models")


def test_build_all(tmp_path: Path, store: ArtifactStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """What can be built is an artifact, what cannot an error in its place, and nothing is lost."""
    monkeypatch.setattr("orchestrator.assign.BUILD_WORKERS", 1)  # no processes: they take seconds
    tiny_model(tmp_path / "tiny.onnx")
    ready = prepare(tmp_path, adhoc(tmp_path, "tiny.onnx"))
    gone = dataclasses.replace(
        ready.models["tiny"],
        source=dataclasses.replace(
            ready.models["tiny"].source, path=tmp_path / "gone.onnx", sha256="0" * 64
        ),
    )
    entries = (*ready.experiment.models, ModelEntry("gone", "gone.onnx"))
    ready = dataclasses.replace(
        ready,
        experiment=dataclasses.replace(ready.experiment, models=entries),
        models={"tiny": ready.models["tiny"], "gone": gone},
    )
    built = build_all(ready, ["x86_64"], store, lambda line: None)
    error, variant = built["gone", "fp32", "x86_64"], built["tiny", "fp32", "x86_64"]
    assert isinstance(error, ModelsError)
    assert isinstance(variant, BuiltVariant)
    assert variant.artifact.path.is_file()
    assert variant.model == ready.models["tiny"]
    assert isinstance(variant.artifact.manifest, Manifest)


def test_an_export_that_brings_other_classes(
    tmp_path: Path, store: ArtifactStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where only the export tells the classes, a variant without shared ones is an error here."""
    data = voc(tmp_path / "voc", NAMES, {"val": 2})
    ready = prepare(tmp_path, adhoc(tmp_path, "tinydet", data=str(data)))

    def complete(model: ModelSpec, artifact: Artifact) -> ModelSpec:
        return dataclasses.replace(model, class_names=("cat", "dog"))

    monkeypatch.setattr("orchestrator.assign.zoo.complete", complete)
    built = build_all(ready, ["x86_64"], store, lambda line: None)
    error = built["tinydet", "fp32", "x86_64"]
    assert isinstance(error, ExperimentError)
    assert "cat, dog" in str(error)


# ---------------------------------------------------------------- runtimes


def without(package: str) -> wire.Fingerprint:
    found = fingerprint()
    kept = {name: version for name, version in found.packages.items() if name != package}
    return msgspec.structs.replace(found, packages=kept)


def eager(detector: Given) -> Given:
    """The same with `fp32` run by torch."""
    recipe = dataclasses.replace(detector.prepared.recipes["fp32"], runtime="torch")
    prepared = dataclasses.replace(detector.prepared, recipes={"fp32": recipe})
    return dataclasses.replace(detector, prepared=prepared)


def test_a_recipe_decides_the_runtime(detector: Given) -> None:
    """A trial is run by what its recipe names, ONNX Runtime where it names nothing."""
    assert {work.spec.runtime for work in detector.work()} == {"onnxruntime"}
    assert {work.spec.runtime for work in eager(detector).work()} == {"torch"}


def test_a_board_without_the_runtime_is_told_before_it_starts(detector: Given) -> None:
    """Its trials are named as impossible with the command that helps; nothing is sent."""
    given = eager(detector)
    assigned = assign(given.plan, given.prepared, {"pi": without("torch")}, given.built, Past())
    assert not assigned["pi"].work
    reasons = {reason for _, reason in assigned["pi"].impossible}
    assert len(reasons) == 1
    assert "boards provision pi --runtime torch" in reasons.pop()
    others = assign(
        detector.plan, detector.prepared, {"pi": without("torch")}, detector.built, Past()
    )
    assert others["pi"].work
