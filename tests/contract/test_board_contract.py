"""What every board promises: the fake one, a local agent and an agent behind real ssh alike."""

from __future__ import annotations

import contextlib
import secrets
from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path

import pytest
from support.boards import Rig, fake_rig, local_rig, ssh_rig
from support.onnxmodels import as_file

from agent import wire
from orchestrator.boards.base import Session
from orchestrator.errors import BoardFailure, LeaseHeld, LeaseLost, TransferFailed
from orchestrator.fetch import Journal, fetch
from orchestrator.transfer import File, push


@pytest.fixture(
    scope="module", params=["fake", "local", pytest.param("ssh", marks=pytest.mark.ssh)]
)
def rig(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rig]:
    folder = tmp_path_factory.mktemp(request.param)
    opened: AbstractContextManager[Rig]
    if request.param == "ssh":
        opened = ssh_rig(folder, request.getfixturevalue("sshd"))
    else:
        opened = {"fake": fake_rig, "local": local_rig}[request.param](folder)
    with opened as made:
        yield made


@pytest.fixture
def session(rig: Rig) -> Iterator[Session]:
    opened = rig.board.connect()
    yield opened
    opened.close()


@pytest.fixture
def run_id(session: Session) -> Iterator[str]:
    name = f"run-{secrets.token_hex(4)}"
    session.lease(wire.LeaseRequest(holder="tester", run_id=name, ttl_s=30.0))
    yield name
    with contextlib.suppress(wire.BenchError):  # a test may have closed the session
        session.release(name)


def new_id() -> str:
    return secrets.token_hex(16)


def new_file(folder: Path, size_bytes: int) -> File:
    path = folder / f"{new_id()}.bin"
    path.write_bytes(secrets.token_bytes(size_bytes))
    return as_file(path)


def follow(rig: Rig, session: Session, trial_id: str, limit_s: float = 30.0) -> Journal:
    end_s = rig.clock.monotonic_s() + limit_s
    while session.poll(trial_id, 0).phase != "ended":
        assert rig.clock.monotonic_s() < end_s, "the trial did not end"
        rig.clock.sleep(0.05)
    return fetch(session, trial_id)


def test_hello(session: Session) -> None:
    """An agent answers with its protocol, its board's fingerprint and a reading."""
    hello = session.hello("host")
    assert hello.protocol == wire.PROTOCOL
    assert hello.fingerprint.cpu_count >= 1
    assert "onnxruntime" in hello.fingerprint.packages
    assert hello.monotonic_ns > 0


def test_doctor(rig: Rig, session: Session) -> None:
    """A board examines itself without keeping a call waiting; the diagnosis has checks."""
    end_s = rig.clock.monotonic_s() + 60
    while not (diagnosis := session.doctor()).complete:
        assert rig.clock.monotonic_s() < end_s, "the diagnosis did not end"
        rig.clock.sleep(0.1)
    assert diagnosis.checks
    assert len({check.name for check in diagnosis.checks}) == len(diagnosis.checks)
    assert abs(diagnosis.board_utc_ns / 1e9 - rig.clock.utc().timestamp()) < 60


def test_push_and_again(session: Session, tmp_path: Path) -> None:
    """A pushed file is complete on the board, and a second push of it moves no data."""
    file = new_file(tmp_path, 2 * wire.CHUNK_BYTES + 17)
    assert session.has([file.sha256]).complete == ()
    first = push(session, [file], lambda state: None)
    again = push(session, [file], lambda state: None)
    assert first.moved_bytes == file.size_bytes
    assert (again.moved_bytes, again.files_missing) == (0, 0)
    assert session.has([file.sha256]).complete == (file.sha256,)


def test_push_resumes(session: Session, tmp_path: Path) -> None:
    """A push that was cut goes on where it ended."""
    file = new_file(tmp_path, 3 * wire.CHUNK_BYTES)
    head = file.path.read_bytes()[: wire.CHUNK_BYTES]
    session.put_chunk(file.sha256, 0, file.size_bytes, head)
    assert session.has([file.sha256]).partial_bytes == {file.sha256: wire.CHUNK_BYTES}
    assert push(session, [file], lambda state: None).moved_bytes == 2 * wire.CHUNK_BYTES
    assert session.has([file.sha256]).complete == (file.sha256,)


def test_wrong_bytes_are_refused(session: Session, tmp_path: Path) -> None:
    """Bytes that do not have the digest they were announced with are not kept."""
    file = new_file(tmp_path, 1000)
    with pytest.raises(TransferFailed):
        session.put_chunk(file.sha256, 0, 1000, bytes(1000))
    found = session.has([file.sha256])
    assert (found.complete, found.partial_bytes) == ((), {})


@pytest.mark.parametrize("name", ["../../etc/passwd", "", "A" * 64, "0" * 63 + "/"])
def test_artifact_names(session: Session, name: str) -> None:
    """An artifact is named by 64 hex digits and by nothing else."""
    with pytest.raises(BoardFailure):
        session.put_chunk(name, 0, 4, b"data")


def test_lease_held(session: Session, run_id: str) -> None:
    """A second run is refused and told who holds the board; the first may ask again."""
    with pytest.raises(LeaseHeld, match="tester"):
        session.lease(wire.LeaseRequest(holder="other", run_id="another", ttl_s=5.0))
    mine = session.lease(wire.LeaseRequest(holder="tester", run_id=run_id, ttl_s=30.0))
    assert mine.run_id == run_id


def test_lease_ends(session: Session) -> None:
    """A released board can be leased by the next run."""
    session.lease(wire.LeaseRequest(holder="a", run_id="first", ttl_s=30.0))
    session.release("first")
    session.lease(wire.LeaseRequest(holder="b", run_id="second", ttl_s=30.0))
    session.release("second")


def test_lease_expires(rig: Rig, session: Session) -> None:
    """A lease that nobody renews expires by itself."""
    session.lease(wire.LeaseRequest(holder="a", run_id="gone", ttl_s=0.3))
    rig.clock.sleep(0.5)
    session.lease(wire.LeaseRequest(holder="b", run_id="next", ttl_s=30.0))
    session.release("next")


def test_lease_outlasts_a_trial(rig: Rig, session: Session) -> None:
    """A lease does not end under a running trial, and the next run may have the board after it."""
    push(session, [rig.model], lambda state: None)
    session.lease(wire.LeaseRequest(holder="a", run_id="slow", ttl_s=0.3))
    spec = rig.trial(
        rig.model, new_id(), "slow",
        min_duration_ns=30_000_000_000, max_duration_ns=40_000_000_000,
    )  # fmt: skip
    session.start(spec)
    rig.clock.sleep(0.6)
    with pytest.raises(LeaseHeld, match=r"\ba measures|by a\b"):
        session.lease(wire.LeaseRequest(holder="b", run_id="next", ttl_s=30.0))
    session.cancel(spec.trial_id)
    follow(rig, session, spec.trial_id)
    session.ack(spec.trial_id)
    session.release("slow")
    session.lease(wire.LeaseRequest(holder="b", run_id="next", ttl_s=30.0))
    session.release("next")


def test_start_needs_a_lease(rig: Rig, session: Session) -> None:
    """A run without a lease cannot start a trial."""
    push(session, [rig.model], lambda state: None)
    with pytest.raises((LeaseLost, LeaseHeld)):
        session.start(rig.trial(rig.model, new_id(), "nobody"))


def test_missing_artifact(rig: Rig, session: Session, run_id: str, tmp_path: Path) -> None:
    """A trial whose artifact is not on the board is refused and the digest named."""
    absent = new_file(tmp_path, 10)
    with pytest.raises(TransferFailed, match=absent.sha256[:12]):
        session.start(rig.trial(absent, new_id(), run_id))


def test_whole_trial(rig: Rig, session: Session, run_id: str) -> None:
    """A trial runs once however often it is started, and its samples come home in order."""
    push(session, [rig.model], lambda state: None)
    spec = rig.trial(rig.model, new_id(), run_id)
    session.start(spec)
    session.start(spec)
    journal = follow(rig, session, spec.trial_id)
    session.start(spec)
    assert journal.outcome.state == "finished"
    assert journal.samples is not None
    assert journal.samples.counts[:2] == (1, 2)
    assert journal.samples.counts[2] >= 8
    assert min(journal.samples.latency_ns) > 0
    assert journal.outcome.inputs_kind == "synthetic"
    assert session.trials() == [spec.trial_id]
    session.ack(spec.trial_id)
    session.ack(spec.trial_id)
    assert session.trials() == []


def test_unknown_trial(session: Session) -> None:
    """A trial that the board does not know is an error that names it."""
    unknown = new_id()
    with pytest.raises(BoardFailure, match=unknown):
        session.poll(unknown, 0)
    assert session.read(unknown, "samples", 0, 100) == b""


def test_cancel_keeps_samples(rig: Rig, session: Session, run_id: str) -> None:
    """A cancelled trial ends at once and what it had measured is kept."""
    push(session, [rig.model], lambda state: None)
    spec = rig.trial(
        rig.model, new_id(), run_id,
        min_duration_ns=30_000_000_000, max_duration_ns=40_000_000_000,
    )  # fmt: skip
    session.start(spec)
    while session.poll(spec.trial_id, 0).samples_done == 0:
        rig.clock.sleep(0.05)
    session.cancel(spec.trial_id)
    journal = follow(rig, session, spec.trial_id)
    session.ack(spec.trial_id)
    assert journal.outcome.state == "cancelled"
    assert journal.samples is not None
    assert journal.samples.counts[2] > 0
    assert len(journal.samples.latency_ns) == sum(journal.samples.counts)


def test_a_file_that_is_no_model(rig: Rig, session: Session, run_id: str) -> None:
    """A model that does not load ends its trial with that reason; the board stays usable."""
    push(session, [rig.garbage], lambda state: None)
    spec = rig.trial(rig.garbage, new_id(), run_id)
    session.start(spec)
    journal = follow(rig, session, spec.trial_id)
    session.ack(spec.trial_id)
    assert journal.outcome.state == "failed"
    assert journal.outcome.failure is not None
    assert journal.outcome.failure.kind is wire.FailureKind.MODEL_LOAD


def test_trial_survives_the_connection(rig: Rig, session: Session, run_id: str) -> None:
    """A trial goes on while nobody is connected, and is found again by its id."""
    push(session, [rig.model], lambda state: None)
    spec = rig.trial(rig.model, new_id(), run_id)
    session.start(spec)
    session.close()
    again = rig.board.connect()
    journal = follow(rig, again, spec.trial_id)
    assert journal.outcome.state == "finished"
    again.ack(spec.trial_id)
    again.release(run_id)
    again.close()
