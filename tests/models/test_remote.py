"""A builder elsewhere, without a network: the conversation over pipes of a real process."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import io
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec
import onnx
import pytest
from support import nets

from models import zoo
from models.build import VariantRequest, build, chain_of, find_cached
from models.chain import links
from models.errors import BuilderLost, BuilderUnfit, DataError
from models.remote import frames, orders
from models.remote.client import BuilderClient
from models.remote.worker import _other_choices, serve
from models.spec import DataSpec, TrainingSpec
from models.steps import ALL_STEPS
from models.steps.base import tool_version
from models.steps.kinds import ORT_FORMAT
from models.store import Artifact, ArtifactStore


def silent(_text: str) -> None:
    pass


@pytest.fixture
def store(tmp_path: Path) -> ArtifactStore:
    return ArtifactStore(tmp_path / "store")


@contextmanager
def builder(home: Path) -> Iterator[BuilderClient]:
    """A builder's process and the host's end of its streams."""
    with subprocess.Popen(
        [sys.executable, "-m", "models.remote.worker", str(home), "watch"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        frames.await_ready(process.stdout)
        yield BuilderClient(process.stdout, process.stdin, {})
        process.stdin.close()
        assert process.wait(30) in (0, 1)  # 1: the watch was faster than the end of the input


def replayed(*headers: dict[str, Any], body: bytes = b"") -> io.BytesIO:
    """What a builder would send: frames with these headers, `body` in the last."""
    stream = io.BytesIO()
    for header in headers[:-1]:
        frames.send(stream, header)
    frames.send(stream, headers[-1], body)
    stream.seek(0)
    return stream


HELLO = {"packages": {"onnx": "1", "onnxruntime": "2", "numpy": "3"}}


def test_a_build_elsewhere_is_the_build_here(tmp_path: Path, store: ArtifactStore) -> None:
    """The same request gives the same file, which is found without the builder afterwards."""
    request = nets.request(tmp_path)
    said: list[str] = []
    with builder(tmp_path / "there") as there:
        (artifact,) = there.build_many([request], store, 1, said.append)
    assert isinstance(artifact, Artifact)
    here = build(request, ArtifactStore(tmp_path / "here"), silent)
    assert artifact.sha256 == here.sha256
    assert artifact.path.read_bytes() == here.path.read_bytes()
    assert find_cached(request, store) == artifact
    assert any("step int8_ptq" in line for line in said)


def test_nothing_is_sent_or_built_twice(tmp_path: Path, store: ArtifactStore) -> None:
    """A second order for a file that the builder has sends no file and runs no step."""
    request = nets.request(tmp_path)
    home = tmp_path / "there"
    with builder(home) as there:
        there.build_many([request], store, 1, silent)
    said: list[str] = []
    with builder(home) as there:
        (again,) = there.build_many([request], ArtifactStore(tmp_path / "new"), 1, said.append)
    assert isinstance(again, Artifact)
    assert said == []


def test_a_failure_there_is_the_same_error_here(tmp_path: Path, store: ArtifactStore) -> None:
    """An error keeps its class and words, and other builds of the order are not lost."""
    nets.relu_only(tmp_path / "relu.onnx")
    bad = nets.request(tmp_path, name="relu")
    bad = dataclasses.replace(bad, calibration=nets.request(tmp_path).calibration)
    with builder(tmp_path / "there") as there:
        failed, built = there.build_many([bad, nets.request(tmp_path)], store, 1, silent)
    assert isinstance(failed, DataError)
    assert "relu" in str(failed)
    assert isinstance(built, Artifact)


def test_what_is_here_needs_no_packages_there(tmp_path: Path, store: ArtifactStore) -> None:
    """A variant that is in the store is the answer, whatever the builder lacks."""
    request = nets.request(tmp_path)
    made = build(request, store, silent)
    client = BuilderClient(replayed({"packages": {}}), io.BytesIO(), {})
    assert client.build_many([request], store, 1, silent) == [made]


def test_a_builder_without_the_packages_is_refused(tmp_path: Path, store: ArtifactStore) -> None:
    """What the steps need and the builder lacks is named before anything is sent."""
    source = replayed({"packages": {"numpy": "3"}})
    client = BuilderClient(source, io.BytesIO(), {})
    (error,) = client.build_many([nets.request(tmp_path)], store, 1, silent)
    assert isinstance(error, BuilderUnfit)
    assert "onnx, onnxruntime" in str(error)


def test_a_file_that_is_cut_off_leaves_nothing(tmp_path: Path) -> None:
    """A host that goes away amid a file leaves neither a part of it nor anything beside it."""
    data = b"x" * 1000
    digest = hashlib.sha256(data).hexdigest()
    whole = replayed({"do": "file", "sha256": digest, "names": ["a", "b"]}, body=data).getvalue()
    with contextlib.suppress(BuilderLost):
        serve(io.BytesIO(whole[:-100]), io.BytesIO(), tmp_path / "home")
    assert list((tmp_path / "home" / "files" / digest).iterdir()) == []
    serve(io.BytesIO(whole), io.BytesIO(), tmp_path / "home")
    names = sorted((tmp_path / "home" / "files" / digest).iterdir())
    assert [path.name for path in names] == ["a", "b"]
    assert all(path.read_bytes() == data for path in names)


def test_a_file_appears_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """While a file is copied to its names, none of them shows a part of it."""
    seen: list[list[str]] = []

    def copy(source: Path, target: Path) -> None:
        target.write_bytes(source.read_bytes()[:10])
        seen.append([path.name for path in folder.iterdir() if path.is_file()])
        target.write_bytes(source.read_bytes())

    data = b"x" * 1000
    digest = hashlib.sha256(data).hexdigest()
    folder = tmp_path / "home" / "files" / digest
    monkeypatch.setattr("models.remote.worker.shutil.copyfile", copy)
    order = replayed({"do": "file", "sha256": digest, "names": ["a", "b"]}, body=data)
    serve(order, io.BytesIO(), tmp_path / "home")
    assert seen == [[], ["a"]]


@pytest.mark.parametrize(
    ("answers", "words"),
    [
        ([{"missing": []}, {"results": []}], "0 results"),
        ([{"missing": []}, {"results": [{"chain": ["../../x"] * 2}]}], "chain"),
        ([{"missing": []}, {"results": [{"chain": ["a" * 64]}]}], "chain"),
        ([{"missing": []}, {"results": [{"chain": ["a" * 64] * 2}]}, {"manifest": "{}"}],
         "manifest"),
        ([{"missing": []}, {"results": [{"chain": ["a" * 64] * 2}]}, {"error": "gone"}], "gone"),
        ([{"missing": []}, {"log": "..."}], "ended"),
    ],
)  # fmt: skip
def test_a_builder_that_lies_is_found_out(
    tmp_path: Path, store: ArtifactStore, answers: list[dict[str, Any]], words: str
) -> None:
    """What no builder says ends the conversation, and nothing gets into the store."""
    client = BuilderClient(replayed(HELLO, *answers), io.BytesIO(), {})
    with pytest.raises(BuilderLost, match=words):
        client.build_many([nets.request(tmp_path)], store, 1, silent)
    assert not list(store.root.glob("artifacts/*/*"))


def test_another_file_than_promised_is_refused(tmp_path: Path, store: ArtifactStore) -> None:
    """Bytes that do not have the promised digest never get a name in the store."""
    request = nets.request(tmp_path)
    made = build(request, ArtifactStore(tmp_path / "there"), silent)
    manifest = made.path.with_suffix(".json").read_text()
    chain = ["a" * 64, made.sha256]
    swapped = bytearray(made.path.read_bytes())
    swapped[100] ^= 1
    source = replayed(
        HELLO, {"missing": []}, {"results": [{"chain": chain}]}, {"manifest": manifest},
        body=bytes(swapped),
    )  # fmt: skip
    with pytest.raises(BuilderLost, match="promised"):
        BuilderClient(source, io.BytesIO(), {}).build_many([request], store, 1, silent)
    assert store.find(made.sha256) is None


def test_another_version_there_makes_another_artifact(tmp_path: Path, store: ArtifactStore) -> None:
    """What a builder's other onnxruntime made is found by its versions, and not as made here."""
    request, elsewhere = nets.request(tmp_path), ArtifactStore(tmp_path / "there")
    made = build(request, elsewhere, silent)
    imported, _ = chain_of(request, elsewhere) or ()
    body = made.path.read_bytes() + b"\0"  # their version writes something else
    sha256 = hashlib.sha256(body).hexdigest()
    manifest = msgspec.structs.replace(made.manifest, sha256=sha256, size_bytes=len(body))
    packages = {name: tool_version(name) for name in ("onnx", "numpy")} | {"onnxruntime": "0.1"}
    source = replayed(
        {"packages": packages}, {"missing": []}, {"results": [{"chain": [imported, sha256]}]},
        {"manifest": msgspec.json.encode(manifest).decode()},
        body=body,
    )  # fmt: skip
    client = BuilderClient(source, io.BytesIO(), {})
    (theirs,) = client.build_many([request], store, 1, silent)
    assert isinstance(theirs, Artifact)
    assert theirs.sha256 == sha256
    assert find_cached(request, store) is None
    assert build(request, store, silent).sha256 == made.sha256 != theirs.sha256
    assert find_cached(request, store, client.versions) == theirs


def test_a_builder_without_linux_ends_with_its_host() -> None:
    """Where poll does not know of half-closed streams, as on macOS, a closed one is noticed."""
    code = (
        "import select, time\n"
        "del select.POLLRDHUP\n"
        "from models.remote.worker import _end_with_host\n"
        "_end_with_host(0)\n"
        "print('watching', flush=True)\n"
        "time.sleep(60)\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stdout.readline() == "watching\n"
        process.stdin.close()
        assert process.wait(30) == 1


def test_folders_of_training_images_need_a_place_there(tmp_path: Path) -> None:
    """Training images are not sent: their folder there has to be named, and is then used."""
    request = nets.request(tmp_path, "fp32")
    training = TrainingSpec(DataSpec("/data/voc"), None, None, tmp_path, "0" * 64)
    request = dataclasses.replace(request, training=training)
    with pytest.raises(BuilderUnfit, match="/data/voc"):
        orders.write_order([request], {})
    order = orders.write_order([request], {"/data/voc": "/mnt/voc"})
    (read,) = orders.read_order(order.requests, tmp_path / "files", tmp_path / "data")
    assert read.training is not None
    assert (read.training.data.source, read.training.cache) == ("/mnt/voc", tmp_path / "data")


def test_a_model_in_several_files_is_refused(tmp_path: Path, store: ArtifactStore) -> None:
    """Weights in a file beside the model would not be sent: this is told before anything is."""
    request = nets.request(tmp_path, "fp32")
    path = tmp_path / "net.onnx"
    onnx.save_model(
        onnx.load(path), path, save_as_external_data=True, location="w.bin", size_threshold=0
    )
    request = dataclasses.replace(request, model=zoo.resolve(str(path)))
    client = BuilderClient(replayed(HELLO), io.BytesIO(), {})
    (error,) = client.build_many([request], store, 1, silent)
    assert isinstance(error, BuilderUnfit)
    assert "save it as one, or build it on this machine" in str(error)


@pytest.mark.parametrize(("theirs", "fits"), [("nchw16c", True), ("nchw", True), ("nchw8c", False)])
def test_a_layout_for_another_cpu_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, theirs: str, fits: bool
) -> None:
    """A file laid out for the builder's CPU would compute nonsense on a host of another."""
    request = nets.request(tmp_path, "ort_format")
    wanted = [link.choices for link in links(request)]
    wanted[-1] = {"target": "amd64", "layout": "nchw16c"}
    step = dataclasses.replace(
        ORT_FORMAT, choices=lambda _params, _isa: {"target": "amd64", "layout": theirs}
    )
    monkeypatch.setitem(ALL_STEPS, "ort_format", step)
    reason = _other_choices(request, wanted)
    assert (reason is None) == fits
    assert fits or ("step ort_format" in str(reason) and theirs in str(reason))


def test_other_images_there_are_found_out(tmp_path: Path, store: ArtifactStore) -> None:
    """A builder whose images are not those of the host refuses to build from them."""
    request = nets.request(tmp_path, "fp32")
    training = TrainingSpec(DataSpec("shapes", "shapes", "train"), None, 8, tmp_path, "0" * 64)
    request = dataclasses.replace(request, training=training)
    with builder(tmp_path / "there") as there:
        (error,) = there.build_many([request], store, 1, silent)
    assert isinstance(error, BuilderUnfit)
    assert "not those of the host" in str(error)


def test_a_large_set_is_compared_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Requests that learn from the same images have them read once, however many they are."""
    read: list[DataSpec] = []

    def spec(data: DataSpec, *_: object) -> TrainingSpec:
        read.append(data)
        return TrainingSpec(data, None, 8, tmp_path, "1" * 64)

    monkeypatch.setattr("models.data.training.training_spec", spec)
    training = TrainingSpec(DataSpec("shapes", "shapes", "train"), None, 8, tmp_path, "0" * 64)
    wanted = [
        dataclasses.replace(nets.request(tmp_path, recipe), training=training)
        for recipe in ("fp32", "ort_format")
    ]
    order = {
        "do": "build",
        "requests": orders.write_order(wanted, {}).requests,
        "choices": [[link.choices for link in links(request)] for request in wanted],
        "workers": 1,
    }
    sink = io.BytesIO()
    serve(replayed(order), sink, tmp_path / "home")
    assert sink.getvalue().count(b"not those of the host") == 2
    assert read == [training.data]


def test_an_order_is_the_request(tmp_path: Path) -> None:
    """What is read there is what was meant here, but for where files lie."""
    request = nets.request(tmp_path)
    order = orders.write_order([request], {})
    (read,) = orders.read_order(order.requests, tmp_path / "files", tmp_path / "data")
    assert read.calibration is not None
    assert request.calibration is not None
    assert len(read.calibration.images) == len(order.files) - 1
    assert dataclasses.replace(read.model, source=request.model.source) == request.model
    assert (read.recipe, read.isa) == (request.recipe, request.isa)
    assert read.calibration.digest == request.calibration.digest


@pytest.mark.parametrize(
    "path", ["/etc/passwd", "file:xyz/a", f"file:{'a' * 64}/../x", f"file:{'a' * 64}/.hidden", 3]
)
def test_an_order_names_no_file_of_the_builder(tmp_path: Path, path: object) -> None:
    """A path that is not one of the sent files is refused by the builder."""
    (told,) = orders.write_order([nets.request(tmp_path)], {}).requests
    told["model"]["source"]["path"] = path
    with pytest.raises(BuilderLost, match="cannot be read"):
        orders.read_order([told], tmp_path / "files", tmp_path / "data")


@pytest.mark.parametrize(
    "order",
    [
        {"do": "file", "sha256": "../../etc", "names": ["x"]},
        {"do": "file", "sha256": "a" * 64, "names": ["../x"]},
        {"do": "fetch", "sha256": "../../etc/passwd"},
        {"do": "missing", "files": {"a" * 64: ["../../x"]}},
        {"do": "anything"},
    ],
)
def test_a_builder_writes_nowhere_else(tmp_path: Path, order: dict[str, Any]) -> None:
    """Names and digests that could leave the builder's folder are refused."""
    source = replayed(order, body=b"x" if order["do"] == "file" else b"")
    with pytest.raises(BuilderLost):
        serve(source, io.BytesIO(), tmp_path / "home")
    assert sorted(path.name for path in tmp_path.rglob("x")) == []


def test_what_a_login_script_prints_is_skipped() -> None:
    """A greeting before the builder's own word does no harm; without that word it is an error."""
    frames.await_ready(io.BytesIO(b"Welcome!\n\x1b[31mred\n" + frames.READY))
    with pytest.raises(BuilderLost, match="did not start"):
        frames.await_ready(io.BytesIO(b"Welcome!\n"))


@pytest.mark.parametrize("data", [b"", b"EOB1", b"XXXX" + b"\0" * 12, b"EOB1" + b"\xff" * 12])
def test_frames_are_bounded(data: bytes) -> None:
    """Something else than a frame, or one beyond all bounds, is refused before it is read."""
    with pytest.raises(BuilderLost):
        frames.receive(io.BytesIO(data))


def test_requests_of_every_kind_can_be_sent(tmp_path: Path) -> None:
    """Networks with options, steps and a teacher cross as well as files do."""
    from models import recipes  # noqa: PLC0415 - only here

    teacher = zoo.resolve("tinydet", options={"num_classes": 3}, need_extra=False)
    request = VariantRequest(teacher, recipes.get("fp32"), "x86_64", others={"big": teacher})
    order = orders.write_order([request], {})
    assert orders.read_order(order.requests, tmp_path, tmp_path) == [request]
