"""Builds: cached, keyed by what matters, whole or not at all, one at a time."""

from __future__ import annotations

import dataclasses
import os
import pickle
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import onnx
import pytest
from support import nets

from agent.wire import BenchError
from models import chain, recipes, zoo
from models.build import (
    VariantRequest,
    build,
    build_many,
    calibration,
    find_cached,
    steps_missing,
)
from models.data.training import training_spec
from models.errors import BuildFailed, ModelUnreadable, NothingQuantized
from models.spec import CalibrationSpec, DataSpec, ModelSpec, file_digest
from models.steps import base
from models.store import Artifact, ArtifactStore

BUILDER = """
import pickle, sys
from pathlib import Path
from models.build import build
from models.store import ArtifactStore
request = pickle.loads(Path(sys.argv[1]).read_bytes())
print(build(request, ArtifactStore(Path(sys.argv[2])), print).sha256, flush=True)
"""


@pytest.fixture
def store(tmp_path: Path) -> ArtifactStore:
    return ArtifactStore(tmp_path / "store")


def silent(_text: str) -> None:
    pass


def pickled(request: VariantRequest, folder: Path) -> Path:
    path = folder / "request.pickle"
    path.write_bytes(pickle.dumps(request))
    return path


def artifacts(store: ArtifactStore) -> set[str]:
    return {path.name for path in store.root.glob("artifacts/*/*.on*")}


def test_the_empty_recipe_is_the_file_itself(tmp_path: Path, store: ArtifactStore) -> None:
    """fp32 is the user's file, byte for byte, under its own digest."""
    request = nets.request(tmp_path, "fp32")
    artifact = build(request, store, silent)
    assert artifact.sha256 == request.model.source.sha256
    assert artifact.path.read_bytes() == (tmp_path / "net.onnx").read_bytes()
    assert artifact.manifest.parent_sha256 is None


def test_external_data_becomes_part_of_the_artifact(tmp_path: Path, store: ArtifactStore) -> None:
    """A model in two files is one artifact, which works without the second file."""
    path = nets.detector(tmp_path / "net.onnx")
    onnx.save_model(
        onnx.load(path), path, save_as_external_data=True, location="w.bin", size_threshold=0
    )
    request = VariantRequest(zoo.resolve(str(path)), recipes.get("fp32"), "x86_64")
    artifact = build(request, store, silent)
    (tmp_path / "w.bin").unlink()
    model = onnx.load(artifact.path)
    assert all(not tensor.external_data for tensor in model.graph.initializer)
    assert find_cached(request, store) == artifact


def test_a_second_build_runs_nothing(tmp_path: Path, store: ArtifactStore) -> None:
    """The same request again is the same artifact, without a word in the log."""
    request = nets.request(tmp_path)
    assert find_cached(request, store) is None
    first = build(request, store, silent)
    lines: list[str] = []
    assert build(request, store, lines.append) == first
    assert find_cached(request, store) == first
    assert lines == []


def test_steps_of_other_recipes_are_reused(tmp_path: Path, store: ArtifactStore) -> None:
    """int8_ptq_ort after int8_ptq quantizes nothing again."""
    parent = build(nets.request(tmp_path, "int8_ptq"), store, silent)
    lines: list[str] = []
    artifact = build(nets.request(tmp_path, "int8_ptq_ort"), store, lines.append)
    assert artifact.manifest.parent_sha256 == parent.sha256
    assert [line for line in lines if line.endswith("step int8_ptq")] == []


def test_looking_for_cached_artifacts_imports_nothing_heavy(
    tmp_path: Path, store: ArtifactStore
) -> None:
    """find_cached answers without numpy, onnx, onnxruntime and torch."""
    request = nets.request(tmp_path, "int8_ptq_ort")
    artifact = build(request, store, silent)
    code = """
import pickle, sys
from pathlib import Path
from models.build import find_cached
from models.store import ArtifactStore
found = find_cached(pickle.loads(Path(sys.argv[1]).read_bytes()), ArtifactStore(Path(sys.argv[2])))
print(found.sha256, {'numpy', 'onnx', 'onnxruntime', 'torch', 'ultralytics'} & sys.modules.keys())
"""
    done = subprocess.run(
        [sys.executable, "-c", code, str(pickled(request, tmp_path)), str(store.root)],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.split(maxsplit=1) == [artifact.sha256, "set()\n"]


def test_boards_with_equal_needs_share_an_artifact(tmp_path: Path, store: ArtifactStore) -> None:
    """Both Arm instruction sets share one INT8 file, x86-64 has another."""
    sha256 = {
        isa: build(nets.request(tmp_path, isa=isa), store, silent).sha256
        for isa in ("aarch64", "aarch64-dotprod", "x86_64")
    }
    assert sha256["aarch64"] == sha256["aarch64-dotprod"] != sha256["x86_64"]


def keys(request: VariantRequest) -> tuple[str, ...]:
    return chain.fingerprint(request)


def test_everything_that_matters_is_in_the_key(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another model, parameter, calibration set, prep or tool version is another build."""
    request = nets.request(tmp_path)
    spec = request.calibration
    assert spec is not None
    step = dataclasses.replace(
        request.recipe.steps[0], params=request.recipe.steps[0].params | {"per_channel": False}
    )
    nets.detector(tmp_path / "other.onnx", seed=7)
    variants = [
        keys(request),
        keys(dataclasses.replace(request, model=zoo.resolve(str(tmp_path / "other.onnx")))),
        keys(
            dataclasses.replace(request, recipe=dataclasses.replace(request.recipe, steps=(step,)))
        ),
        keys(dataclasses.replace(request, calibration=calibration(spec.images[:2], spec.prep))),
        keys(dataclasses.replace(request, calibration=calibration(spec.images, None))),
    ]
    monkeypatch.setattr(chain, "tool_version", lambda package: f"{package} 99")
    variants.append(keys(request))
    assert len(set(variants)) == len(variants)
    monkeypatch.undo()
    renamed = dataclasses.replace(request, recipe=dataclasses.replace(request.recipe, name="x"))
    assert keys(renamed) == keys(request)


def test_a_network_of_ultralytics_depends_on_its_version() -> None:
    """Every step that builds the network from its code has that version in its key, ours not."""
    steps = recipes.parse_steps([{"step": "prune"}, {"step": "export_int8"}], "here")
    recipe = recipes.Recipe("mine", steps, "")

    def changed(reference: str) -> list[str]:
        model = zoo.resolve(reference, need_extra=False)
        found = chain.links(VariantRequest(model, recipe, "x86_64"))
        old, new = ([link.key("p", {"ultralytics": v}) for link in found] for v in ("1", "2"))
        return [link.step.name for link, a, b in zip(found, old, new, strict=True) if a != b]

    assert changed("yolov8n.yaml") == ["take_ultralytics", "prune", "export_int8"]
    assert changed("unet") == []


def test_a_teacher_may_have_a_teacher(tmp_path: Path) -> None:
    """Each learns from another model of the experiment; one that would teach itself is refused."""
    training = training_spec(DataSpec("shapes", split="train"), None, 8, tmp_path)

    def student(teacher: str) -> ModelSpec:
        steps = recipes.parse_steps([{"step": "distill", "teacher": teacher}], "here")
        return zoo.resolve("tinydet", steps=steps, need_extra=False)

    def last(**others: ModelSpec) -> chain.VariantRequest:
        request = VariantRequest(student("big"), recipes.get("fp32"), "x86_64", training=training)
        (_, taught, _) = chain.links(dataclasses.replace(request, others=others))
        return taught.others["big"]

    trained = zoo.resolve(
        "tinydet", steps=recipes.parse_steps([{"step": "train"}], "here"), need_extra=False
    )
    (_, taught) = chain.links(last(big=student("huge"), huge=trained))
    assert taught.others["huge"].model == trained
    for others in ({"big": student("big")}, {"big": student("small"), "small": student("big")}):
        with pytest.raises(BuildFailed, match=r"no model named '(big|small)' to learn from"):
            chain.fingerprint(last(**others))


def test_an_absent_tool_has_a_version_too() -> None:
    """Keys can be computed where a step's tools are not installed."""
    assert base.tool_version("no-such-package-here") == "absent"
    assert base.tool_version("onnx") == onnx.__version__


@pytest.mark.parametrize("recipe", ["fp32", "int8_ptq", "int8_ptq_ort"])
def test_a_flipped_bit_is_found_and_built_again(
    tmp_path: Path, store: ArtifactStore, recipe: str
) -> None:
    """A damaged artifact is never handed out; the next build replaces it."""
    request = nets.request(tmp_path, recipe)
    artifact = build(request, store, silent)
    data = bytearray(artifact.path.read_bytes())
    data[len(data) // 2] ^= 1
    artifact.path.chmod(0o644)
    artifact.path.write_bytes(data)
    assert find_cached(request, store) is None
    again = build(request, store, silent)
    assert file_digest(again.path) == again.sha256
    assert find_cached(request, store) == again
    assert (
        len(list((store.root / "quarantine").glob("*.on*")))
        + len(list((store.root / "quarantine").glob("*.ort")))
        == 1
    )


def test_a_damaged_parent_is_built_again(tmp_path: Path, store: ArtifactStore) -> None:
    """A step does not start from a damaged file."""
    parent = build(nets.request(tmp_path, "fp32"), store, silent)
    parent.path.chmod(0o644)
    parent.path.write_bytes(b"damaged")
    artifact = build(nets.request(tmp_path, "ort_format"), store, silent)
    assert artifact.manifest.parent_sha256 == parent.sha256
    assert file_digest(parent.path) == parent.sha256


def test_a_build_goes_on_from_the_last_file_that_is_there(
    tmp_path: Path, store: ArtifactStore
) -> None:
    """What an artifact was made from is not made again, though a builder has kept it to itself."""
    parent = build(nets.request(tmp_path, "int8_ptq"), store, silent)
    source = store.get(parent.manifest.parent_sha256 or "")
    source.path.unlink()
    request = nets.request(tmp_path, "int8_ptq_ort")
    assert steps_missing(request, store) == 1
    lines: list[str] = []
    assert build(request, store, lines.append).manifest.parent_sha256 == parent.sha256
    assert [line.rpartition(": ")[2] for line in lines] == ["step ort_format"]
    assert steps_missing(nets.request(tmp_path, "fp32"), store) == 1


def test_a_lost_store_is_built_again(tmp_path: Path, store: ArtifactStore) -> None:
    """An index that outlived its artifacts leads to a build, not to an error."""
    request = nets.request(tmp_path)
    first = build(request, store, silent)
    shutil.rmtree(store.root / "artifacts")
    assert find_cached(request, store) is None
    assert build(request, store, silent).manifest.steps == first.manifest.steps


def test_a_failed_step_leaves_nothing(tmp_path: Path, store: ArtifactStore) -> None:
    """After a refusal the parent is there, the scratch folder empty, and nothing remembered."""
    model = zoo.resolve(str(nets.relu_only(tmp_path / "relu.onnx")))
    spec = calibration(nets.tensors(tmp_path / "c", (1, 3, 8, 8)), None)
    request = VariantRequest(model, recipes.get("int8_ptq_all"), "x86_64", spec)
    for _ in range(2):
        with pytest.raises(NothingQuantized, match="relu/int8_ptq_all for x86_64: step int8_ptq"):
            build(request, store, silent)
    assert artifacts(store) == {f"{model.source.sha256}.onnx"}
    assert list((store.root / "tmp").iterdir()) == []


def test_a_source_that_changes_meanwhile_is_refused(tmp_path: Path, store: ArtifactStore) -> None:
    """The file that was resolved is the file that is built."""
    request = nets.request(tmp_path, "fp32")
    nets.detector(tmp_path / "net.onnx", seed=9)
    with pytest.raises(ModelUnreadable, match="changed while it was read"):
        build(request, store, silent)
    assert artifacts(store) == set()


def test_a_model_that_onnxruntime_refuses_names_the_step(
    tmp_path: Path, store: ArtifactStore, capfd: pytest.CaptureFixture[str]
) -> None:
    """What ONNX Runtime raises becomes BuildFailed with model, recipe and step, quietly."""
    path = nets.save(
        tmp_path / "odd.onnx",
        [onnx.helper.make_node("NoSuchOp", ["x"], ["y"], name="odd", domain="no.such.domain")],
        [],
        inputs={"x": (1, 3)},
        outputs={"y": (1, 3)},
    )
    model = onnx.load(path)
    model.opset_import.append(onnx.helper.make_opsetid("no.such.domain", 1))
    onnx.save(model, path)
    request = VariantRequest(zoo.resolve(str(path)), recipes.get("ort_format"), "aarch64")
    with pytest.raises(
        BuildFailed, match=r"odd/ort_format for aarch64: step ort_format: .*NoSuchOp"
    ):
        build(request, store, silent)
    assert capfd.readouterr() == ("", "")


def test_a_store_that_cannot_be_written_is_an_error_of_the_build(tmp_path: Path) -> None:
    """A cache below a file says so, naming the step, instead of a bare OSError."""
    (tmp_path / "file").write_text("")
    with pytest.raises(BuildFailed, match=r"net/fp32 .*Not a directory"):
        build(nets.request(tmp_path, "fp32"), ArtifactStore(tmp_path / "file" / "store"), silent)


def test_a_full_disk_leaves_nothing_half_made(tmp_path: Path, store: ArtifactStore) -> None:
    """When writing stops in the middle, the step is named and the store holds no artifact."""
    request = nets.request(tmp_path, "fp32")
    limit = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))"
    done = subprocess.run(
        [sys.executable, "-c", limit + BUILDER, str(pickled(request, tmp_path)), str(store.root)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode != 0
    assert "models.errors.BuildFailed: net/fp32 for x86_64-vnni: step import: " in done.stderr
    assert artifacts(store) == set()
    assert find_cached(request, store) is None
    assert list((store.root / "tmp").iterdir()) == []


def blocked_request(tmp_path: Path) -> VariantRequest:
    """A request whose calibration never ends: its second file is a pipe nobody writes to."""
    request = nets.request(tmp_path)
    assert request.calibration is not None
    pipe = tmp_path / "calibration" / "pipe.npy"
    os.mkfifo(pipe)
    images = (request.calibration.images[0], pipe)
    return dataclasses.replace(
        request, calibration=CalibrationSpec(images, request.model.prep, "digest")
    )


def start(request: VariantRequest, folder: Path, store: ArtifactStore) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", BUILDER, str(pickled(request, folder)), str(store.root)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.mark.parametrize("ending", [signal.SIGKILL, signal.SIGINT])
def test_an_interrupted_build_leaves_no_half_artifact(
    tmp_path: Path, store: ArtifactStore, ending: signal.Signals
) -> None:
    """Killed or interrupted in the middle, a step leaves its parent only, and no lock."""
    request = blocked_request(tmp_path)
    process = start(request, tmp_path, store)
    assert process.stdout is not None
    while "calibrated with 1 of 2" not in process.stdout.readline():
        assert process.poll() is None
    process.send_signal(ending)
    process.communicate(timeout=20)
    assert process.returncode != 0
    assert artifacts(store) == {f"{request.model.source.sha256}.onnx"}
    assert find_cached(request, store) is None
    assert find_cached(nets.request(tmp_path, "fp32"), store) is not None
    # The dead builder's lock is free: a second one, with data that ends, gets through.
    assert request.calibration is not None
    shorter = dataclasses.replace(request.calibration, images=request.calibration.images[:1])
    artifact = build(dataclasses.replace(request, calibration=shorter), store, silent)
    assert artifact.manifest.calibration_items == 1


def test_two_processes_build_the_same_thing_once(tmp_path: Path, store: ArtifactStore) -> None:
    """Of two builders at once one works and the other takes its result."""
    request = nets.request(tmp_path)
    processes = [start(request, tmp_path, store) for _ in range(2)]
    outputs = [process.communicate(timeout=60) for process in processes]
    assert [process.returncode for process in processes] == [0, 0], outputs
    sha256 = {output.splitlines()[-1] for output, _ in outputs}
    assert len(sha256) == 1
    assert store.get(sha256.pop()).manifest.recipe == "int8_ptq"
    assert sum(output.count("quantizing") for output, _ in outputs) == 1


def test_many_requests_come_back_in_order(tmp_path: Path, store: ArtifactStore) -> None:
    """Each request gets its artifact or its own error; equal ones share one build."""
    names = ["int8_ptq_ort", "fp32", "int8_ptq", "int8_ptq"]
    requests = [nets.request(tmp_path, name) for name in names]
    broken = dataclasses.replace(nets.request(tmp_path, "int8_ptq_all"), calibration=None)
    arm = nets.request(tmp_path, isa="aarch64")
    twin = nets.request(tmp_path, isa="aarch64-dotprod")
    lines: list[str] = []
    results = build_many([*requests, broken, arm, twin], store, 2, lines.append)
    made: list[Any] = [*results[:4], *results[5:]]
    assert all(isinstance(result, Artifact) for result in made)
    assert [result.format for result in made[:4]] == ["ort", "onnx", "onnx", "onnx"]
    assert made[2] == made[3]
    assert made[4] == made[5]
    assert made[0].manifest.parent_sha256 == made[2].sha256
    assert isinstance(results[4], BuildFailed)
    assert "--calibration" in str(results[4])
    assert sum("quantizing" in line for line in lines) == 2
    assert build_many(requests, store, 2, lines.append) == list(results[:4])


def test_one_failure_does_not_touch_the_others(tmp_path: Path, store: ArtifactStore) -> None:
    """In a pool too, an error belongs to its own request and keeps its class."""
    model = zoo.resolve(str(nets.relu_only(tmp_path / "relu.onnx")))
    spec = calibration(nets.tensors(tmp_path / "c", (1, 3, 8, 8)), None)
    hopeless = VariantRequest(model, recipes.get("int8_ptq_all"), "x86_64", spec)
    good = nets.request(tmp_path, "ort_format")
    results = build_many([hopeless, good], store, 2, silent)
    assert isinstance(results[0], NothingQuantized)
    assert isinstance(results[1], Artifact)


def test_one_missing_build_starts_no_process(
    tmp_path: Path, store: ArtifactStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With all but one cached, the last is built in this process."""
    build(nets.request(tmp_path, "fp32"), store, silent)

    def refuse(*_arguments: object, **_options: object) -> None:
        raise AssertionError("a pool was started")

    monkeypatch.setattr("concurrent.futures.ProcessPoolExecutor", refuse)
    wanted = [nets.request(tmp_path, "fp32"), nets.request(tmp_path, "ort_format")]
    results = build_many(wanted, store, 2, silent)
    assert not any(isinstance(result, BenchError) for result in results)
