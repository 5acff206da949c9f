"""Files whose bytes are not those that their names promise, on the board and on the host."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.agentkit import AgentProcess, agent_process, trial_spec, wait_until
from support.onnxmodels import as_file, tiny_model
from support.runs import assignment, fake_board, model_file, run
from support.workerrig import PREP, Rig, detector

from agent import wire
from agent.wire import FailureKind
from orchestrator.events import TrialEnded


def flip(path: Path, index: int = -1) -> None:
    """Change one bit of a file."""
    data = bytearray(path.read_bytes())
    data[index] ^= 1
    path.chmod(0o600)
    path.write_bytes(data)


@pytest.fixture
def rig(tmp_path: Path) -> Rig:
    return Rig(tmp_path)


def test_a_damaged_model_is_not_loaded(rig: Rig, tmp_path: Path) -> None:
    """A model with one bit changed is refused before the runtime sees a byte of it."""
    model = rig.add(tiny_model(tmp_path / "tiny.onnx").read_bytes())
    rig.write(model)
    flip(rig.artifacts / model.sha256)
    failure = rig.failure_here()
    assert failure.kind is FailureKind.DIGEST_MISMATCH
    assert model.sha256[:12] in failure.message
    assert not (rig.trial / "samples.bin").exists()


@pytest.mark.parametrize("where", ["inputs", "evaluation"])
def test_a_damaged_image_is_not_used(rig: Rig, where: str) -> None:
    """An image with one bit changed is refused too, timed or evaluated."""
    model, image = rig.add(detector()), rig.image("a")
    flip(rig.artifacts / image.sha256)
    head = wire.DetectHead(decoder="yolo_v8", num_classes=2)
    if where == "inputs":
        rig.write(model, inputs=wire.Inputs((image,), PREP))
    else:
        rig.write(model, evaluation=wire.Evaluation((image,), PREP, head, 10**10))
    assert rig.failure_here().kind is FailureKind.DIGEST_MISMATCH


def test_flipped_on_the_board(tmp_path: Path) -> None:
    """A bit flipped in the agent's cache ends the trial unmeasured; a new push mends it."""
    file = as_file(tiny_model(tmp_path / "tiny.onnx"))
    with agent_process(tmp_path) as process:
        talk = process.talk()
        request = wire.LeaseRequest(holder="ann", run_id="run-1", ttl_s=60.0)
        talk.ok(wire.LeaseInfo, "lease", wire.encode(request))
        data = file.path.read_bytes()

        def push() -> bool:
            put = talk.ok(wire.Put, "put_chunk", file.sha256, 0, len(data), data)
            return bool(put.complete)

        def ended(trial_id: str) -> wire.Outcome:
            spec = trial_spec(trial_id, sha256=file.sha256, size_bytes=file.size_bytes)
            talk.ok(bool, "start", wire.encode(spec))
            wait_until(lambda: talk.ok(wire.Poll, "poll", trial_id, 0).phase == "ended", 30)
            outcome: wire.Outcome = talk.ok(wire.Outcome, "outcome", trial_id)
            return outcome

        assert push()
        flip(_cached(process, file.sha256))
        outcome = ended("one")
        assert outcome.failure is not None
        assert outcome.failure.kind is FailureKind.DIGEST_MISMATCH
        assert "samples" not in outcome.parts
        assert talk.ok(wire.Has, "has", wire.encode([file.sha256])).complete == ()
        assert push()
        assert ended("two").state == "finished"
        talk.close()


def _cached(process: AgentProcess, sha256: str) -> Path:
    return process.home.artifacts / sha256


@pytest.mark.parametrize("decays", [1, 9])
def test_the_host_pushes_it_again(tmp_path: Path, decays: int) -> None:
    """A file that decayed on a board is pushed again and the trial repeated, but not for ever."""
    file = model_file(tmp_path)
    board = fake_board("pi")
    agent, pushes = board.agent, []
    failure = wire.Failure(FailureKind.DIGEST_MISMATCH, "other bytes")

    def served(method: str) -> None:
        if method == "start":
            agent.refuses = {file.sha256: failure} if len(pushes) <= decays else {}
        elif method == "outcome":
            agent.files.pop(file.sha256, None)  # as a board does with what it found damaged
        elif method == "put_chunk":
            pushes.append(method)

    agent.sabotage = served
    _, events = run([board], {"pi": assignment("pi", [("fp32", file)])})
    ended = [event.outcome.state for event in events if isinstance(event, TrialEnded)]
    assert ended == (["failed", "finished"] if decays == 1 else ["failed", "failed"])
