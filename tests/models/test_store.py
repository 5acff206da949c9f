"""The artifact store: names are digests, damage is found, nothing is half there."""

from __future__ import annotations

import os
import threading
import time
from pathlib import Path

import msgspec
import pytest

from models.errors import ArtifactLost
from models.spec import file_digest
from models.store import Artifact, ArtifactStore, Manifest, StepRecord
from models.tensors import TensorInfo

KEY = "ab" + "0" * 62


def manifest(path: Path, model: str = "net") -> Manifest:
    return Manifest(
        sha256=file_digest(path),
        size_bytes=path.stat().st_size,
        format="onnx",
        parent_sha256=None,
        model=model,
        recipe="fp32",
        isa="x86_64",
        steps=(StepRecord("import", {}, {}),),
        tool_versions={},
        calibration_digest=None,
        calibration_items=None,
        inputs={"x": TensorInfo("float32", ("batch", 3, None, 8))},
        outputs={"y": TensorInfo("float32", None)},
        metadata={"task": "detect"},
        opset=17,
        parameters=3,
        weight_bytes=12,
        node_counts={"Conv": 1},
        fused_kernels=None,
        unfused_qdq=None,
        fused_note="not counted: host is x86_64",
        created_utc="2026-01-01T00:00:00+00:00",
    )


def add(store: ArtifactStore, folder: Path, data: bytes = b"model", model: str = "net") -> Artifact:
    file = folder / "made.onnx"
    file.write_bytes(data)
    return store.add(file, manifest(file, model))


def test_what_is_added_is_found_again(tmp_path: Path) -> None:
    """An artifact comes back with its bytes and its whole manifest, from a new store too."""
    added = add(ArtifactStore(tmp_path / "s"), tmp_path)
    found = ArtifactStore(tmp_path / "s").get(added.sha256)
    assert found == added
    assert found.path.read_bytes() == b"model"
    assert found.path.name == f"{found.sha256}.onnx"
    assert found.manifest.inputs["x"].shape == ("batch", 3, None, 8)
    assert found.manifest.outputs["y"].shape is None
    assert not (tmp_path / "made.onnx").exists()


def test_artifacts_cannot_be_written_by_accident(tmp_path: Path) -> None:
    """The file is read-only."""
    assert add(ArtifactStore(tmp_path / "s"), tmp_path).path.stat().st_mode & 0o222 == 0


def test_the_first_manifest_stays(tmp_path: Path) -> None:
    """Finished records never change: the same bytes again keep their first manifest."""
    store = ArtifactStore(tmp_path / "s")
    add(store, tmp_path, model="first")
    assert add(store, tmp_path, model="second").manifest.model == "first"


def test_absent_artifacts(tmp_path: Path) -> None:
    """What was never added is None to find, and an error with what to do to get."""
    store = ArtifactStore(tmp_path / "s")
    assert store.find("0" * 64) is None
    assert store.lookup(KEY) is None
    with pytest.raises(ArtifactLost, match="orchestrator build"):
        store.get("0" * 64)


@pytest.mark.parametrize("damage", ["flip", "truncate", "append", "empty"])
def test_damaged_artifacts_are_quarantined(tmp_path: Path, damage: str) -> None:
    """One flipped bit is found; the file is moved aside, so that it is built again."""
    store = ArtifactStore(tmp_path / "s")
    artifact = add(store, tmp_path, os.urandom(5000))
    data = bytearray(artifact.path.read_bytes())
    if damage == "flip":
        data[2500] ^= 4
    damaged = {"truncate": data[:-1], "append": data + b"x", "empty": b""}.get(damage, data)
    artifact.path.chmod(0o644)
    artifact.path.write_bytes(damaged)
    with pytest.raises(ArtifactLost, match="quarantine"):
        store.get(artifact.sha256)
    kept = sorted(path.suffix for path in (store.root / "quarantine").iterdir())
    assert kept == [".json", ".onnx"]
    assert not artifact.path.exists()


@pytest.mark.parametrize("content", [b"", b"{}", b"not json", None])
def test_a_damaged_manifest_is_no_manifest(tmp_path: Path, content: bytes | None) -> None:
    """A file without a readable manifest is not handed out."""
    store = ArtifactStore(tmp_path / "s")
    artifact = add(store, tmp_path)
    path = artifact.path.with_suffix(".json")
    path.unlink() if content is None else path.write_bytes(content)
    assert store.find(artifact.sha256) is None


def test_a_manifest_of_a_newer_version_is_read(tmp_path: Path) -> None:
    """Fields that a later version adds do not make an artifact unreadable."""
    store = ArtifactStore(tmp_path / "s")
    artifact = add(store, tmp_path)
    path = artifact.path.with_suffix(".json")
    newer = msgspec.json.decode(path.read_bytes()) | {"later": 1}
    path.write_bytes(msgspec.json.encode(newer))
    assert store.get(artifact.sha256).manifest == artifact.manifest


def test_the_index_survives_damage(tmp_path: Path) -> None:
    """A key leads to its digest; a damaged entry leads nowhere and can be written again."""
    store = ArtifactStore(tmp_path / "s")
    store.remember(KEY, "1" * 64)
    assert store.lookup(KEY) == "1" * 64
    entry = store.root / "index" / KEY[:2] / KEY
    for damaged in (b"", b"1234", b"../../etc/passwd", b"\xff" * 64):
        entry.write_bytes(damaged)
        assert store.lookup(KEY) is None
    store.remember(KEY, "2" * 64)
    assert store.lookup(KEY) == "2" * 64


def test_a_lock_is_held_by_one(tmp_path: Path) -> None:
    """A second holder of a key waits, says so once, and goes on when the first is done."""
    store = ArtifactStore(tmp_path / "s")
    order: list[str] = []
    waits = threading.Event()

    def second() -> None:
        with store.lock(KEY, waits.set):
            order.append("second")

    with store.lock(KEY):
        thread = threading.Thread(target=second)
        thread.start()
        assert waits.wait(5)
        order.append("first")
    thread.join(5)
    assert order == ["first", "second"]


def test_scratch_folders_go_away(tmp_path: Path) -> None:
    """Work in progress is removed after success and after an error."""
    store = ArtifactStore(tmp_path / "s")

    def fail() -> None:
        with store.workdir() as work:
            (work / "half.onnx").write_bytes(b"half")
            raise ZeroDivisionError

    with store.workdir() as work:
        (work / "half.onnx").write_bytes(b"half")
    with pytest.raises(ZeroDivisionError):
        fail()
    assert list((store.root / "tmp").iterdir()) == []


def test_leftovers_of_killed_builders_are_swept(tmp_path: Path) -> None:
    """An old scratch folder that nobody holds is removed, a held or a new one is not."""
    store = ArtifactStore(tmp_path / "s")
    old = time.time() - 3600
    with store.workdir() as held:
        dead = store.root / "tmp" / "dead"
        dead.mkdir()
        (dead / "half.onnx").write_bytes(b"half")
        for folder in (held, dead):
            os.utime(folder, (old, old))
        with store.workdir() as new:
            assert {path.name for path in (store.root / "tmp").iterdir()} == {held.name, new.name}


def test_abandoned_trainings_are_swept(tmp_path: Path) -> None:
    """What nobody has gone on with for a month goes; what is younger stays, one's own as well."""
    store = ArtifactStore(tmp_path)
    old, young, own = (store.resume_folder(name) for name in ("old", "young", "own"))
    for folder, days in ((old, 31), (young, 29), (own, 0)):
        folder.mkdir(parents=True)
        (folder / "checkpoint.pt").write_bytes(b"weights")
        then = time.time() - days * 86_400
        os.utime(folder, (then, then))
    assert store.resume_folder("own") == own
    assert sorted(entry.name for entry in (tmp_path / "resume").iterdir()) == ["own", "young"]
