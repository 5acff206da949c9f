"""Bringing an ended trial home from a fake board that may lie about it."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest
from support.runs import CLOCK, RUN_ID, fake_board, model_file, planned, work

from agent import wire
from orchestrator.boards.base import Argument, Pending, Session
from orchestrator.boards.fake import FakeAgent
from orchestrator.boards.link import CALL_TIMEOUT_S
from orchestrator.errors import BoardFailure, TransferFailed
from orchestrator.fetch import MAX_LINE_BYTES, MAX_PART_BYTES, Journal, fetch
from orchestrator.transfer import push


class Ended:
    """A fake board with one ended trial, whose journal a test may change."""

    def __init__(self, folder: Path, evaluation: wire.Evaluation | None = None) -> None:
        self.agent = fake_board("pi").agent
        self.session = Session("pi", self.agent)
        file = model_file(folder)
        push(self.session, [file], lambda state: None)
        self.session.lease(wire.LeaseRequest(holder="tester", run_id=RUN_ID, ttl_s=60))
        spec = msgspec.structs.replace(work(planned("pi", 0), file).spec, evaluation=evaluation)
        self.trial_id = spec.trial_id
        self.session.start(spec)
        CLOCK.sleep(30)

    def fetch(self) -> Journal:
        return fetch(self.session, self.trial_id)

    def promise(self, **changes: object) -> None:
        """Change the outcome that the board reports."""
        plain = self.agent._outcome

        def outcome(trial_id: str) -> wire.Outcome:
            return msgspec.structs.replace(plain(trial_id), **changes)

        self.agent._outcome = outcome  # type: ignore[method-assign]

    def part(self, name: str, data: bytes) -> None:
        """Report and deliver this as a part, with its true digest."""
        plain = self.agent._parts
        self.agent._parts = lambda trial: {**plain(trial), name: data}  # type: ignore[method-assign]


@pytest.fixture
def ended(tmp_path: Path) -> Ended:
    return Ended(tmp_path)


def test_a_slow_line(ended: Ended) -> None:
    """A large journal comes home over 5 KB/s, and no piece of it outlasts a call's time-out."""
    plain, now_s, longest_s = ended.agent.begin, [0.0], [0.0]

    def begin(method: str, *args: Argument) -> Pending:
        answer = plain(method, *args)
        took_s = len(answer()) / 5_000
        now_s[0] += took_s
        longest_s[0] = max(longest_s[0], took_s)
        return answer

    ended.agent.begin = begin  # type: ignore[method-assign]
    lines = wire.encode(ended.session.telemetry()).encode() + b"\n"
    ended.part("readings", lines * 2000)
    journal = fetch(ended.session, ended.trial_id, lambda: now_s[0])
    assert len(journal.readings) == 2000
    assert longest_s[0] < CALL_TIMEOUT_S / 2


def test_whole_journal(tmp_path: Path) -> None:
    """All parts come home as the board wrote them."""
    images = tuple(wire.ImageRef(sha256="0" * 64, image_id=f"i{n}") for n in range(3))
    head = wire.DetectHead(decoder="yolo_v8", num_classes=2)
    journal = Ended(
        tmp_path, wire.Evaluation(images, wire.ImagePrep(8, 8), head, 1_000_000_000)
    ).fetch()
    assert journal.outcome.state == "finished"
    assert journal.samples is not None
    assert journal.samples.counts == (1, 2, 500)
    assert [reading.temp_c for reading in journal.readings] == [45.0]
    assert journal.detections is not None
    assert [found.image_id for found in journal.detections] == ["i0", "i1", "i2"]


def test_absent_parts(ended: Ended) -> None:
    """What the board did not write is absent, not empty."""
    assert ended.fetch().detections is None
    ended.promise(parts={})
    journal = ended.fetch()
    assert (journal.samples, journal.readings, journal.detections) == (None, (), None)


def test_several_chunks(ended: Ended) -> None:
    """A part larger than a chunk is read piece by piece."""
    line = wire.encode(ended.agent._telemetry()).encode() + b"\n"
    count = 2 * wire.CHUNK_BYTES // len(line) + 1
    ended.part("readings", line * count)
    assert len(ended.fetch().readings) == count


def test_masks(tmp_path: Path) -> None:
    """A segmentation's masks come in the order of its images, and detections are absent."""
    images = tuple(wire.ImageRef(f"{n}" * 64, f"i{n}") for n in range(3))
    evaluation = wire.Evaluation(images, wire.ImagePrep(8, 6), wire.SegmentHead(1), 1_000_000_000)
    journal = Ended(tmp_path, evaluation).fetch()
    assert journal.detections is None
    assert journal.masks is not None
    assert [(m.image_id, m.height, m.width) for m in journal.masks] == [
        (f"i{n}", 8, 6) for n in range(3)
    ]


@pytest.mark.parametrize("part", ["masks", "detections", "readings"])
def test_a_line_without_end(ended: Ended, part: wire.PartName) -> None:
    """A line that no honest message needs is refused before it is decoded."""
    ended.part(part, b"[" * (MAX_LINE_BYTES + 1))
    with pytest.raises(wire.WireError, match=f"line 1 has {MAX_LINE_BYTES + 1} bytes"):
        ended.fetch()


def test_another_trial(ended: Ended) -> None:
    """An outcome of another trial than the one asked for is refused."""
    ended.promise(trial_id="f" * 32)
    with pytest.raises(TransferFailed, match=f"asked for trial {ended.trial_id}, got {'f' * 32}"):
        ended.fetch()


def test_unknown_trial(ended: Ended) -> None:
    """A trial that the board does not know is its failure."""
    with pytest.raises(BoardFailure, match="no trial"):
        fetch(ended.session, "f" * 32)


@pytest.mark.parametrize("size_bytes", [MAX_PART_BYTES + 1, 1 << 60, -1])
def test_part_of_an_impossible_size(ended: Ended, size_bytes: int) -> None:
    """A part that no honest trial writes is refused before a byte of it is read."""
    ended.promise(parts={"samples": wire.Part(size_bytes=size_bytes, sha256="0" * 64)})
    calls = []
    ended.agent.sabotage = calls.append
    with pytest.raises(TransferFailed, match=f"samples of trial .* would be {size_bytes} bytes"):
        ended.fetch()
    assert calls == ["outcome"]


def test_wrong_digest(ended: Ended) -> None:
    """A part whose bytes have another digest is refused, and the message says where it is still."""
    ended.promise(parts={"readings": wire.Part(size_bytes=5, sha256="0" * 64)})
    with pytest.raises(TransferFailed, match=r"5 of 5 bytes .* it is still on the board"):
        ended.fetch()
    assert ended.session.trials() == [ended.trial_id]


def test_shorter_than_promised(ended: Ended) -> None:
    """A part that ends early is refused with both sizes, and nobody waits for the rest."""
    promised = wire.Part(size_bytes=1_000_000, sha256="0" * 64)
    ended.promise(parts={"readings": promised})
    with pytest.raises(TransferFailed, match="of 1000000 bytes"):
        ended.fetch()


@pytest.mark.parametrize(
    "line",
    [
        b'{"t_ns": 1',
        b'{"t_ns": "1"}',
        b"[]",
        b"\xff\xfe",
        b'{"t_ns": 1, "temp_c": NaN}',
        b"[" * 5000,
    ],
)
def test_a_line_that_is_no_reading(ended: Ended, line: bytes) -> None:
    """A damaged line is an error that names what was expected."""
    ended.part("readings", wire.encode(ended.agent._telemetry()).encode() + b"\n" + line + b"\n")
    with pytest.raises(wire.WireError, match="Reading"):
        ended.fetch()


def test_blank_lines(ended: Ended) -> None:
    """Blank lines mean nothing."""
    ended.part("readings", b"\n\n  \n")
    assert ended.fetch().readings == ()


@pytest.mark.parametrize(
    "data", [b"", b"short", wire.samples_header(10, (1, 2, 3)), wire.samples_header(0, (0, 0, 5))]
)
def test_samples_that_do_not_add_up(ended: Ended, data: bytes) -> None:
    """Samples whose header and size contradict each other are refused."""
    ended.part("samples", data)
    with pytest.raises(wire.WireError, match="samples"):
        ended.fetch()


def test_the_agent_is_asked_again(ended: Ended) -> None:
    """Fetching changes nothing on the board, so it can be done again after a broken line."""
    first, second = ended.fetch(), ended.fetch()
    assert first == second
    assert ended.session.trials() == [ended.trial_id]


def test_clocks_are_the_boards(ended: Ended) -> None:
    """Start and end are the board's own clock."""
    outcome = ended.fetch().outcome
    agent: FakeAgent = ended.agent
    assert outcome.started_monotonic_ns < outcome.ended_monotonic_ns <= agent.now_ns()
