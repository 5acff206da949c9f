"""Pushing files to a board: only what is missing, whole or not at all."""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Callable
from pathlib import Path

import pytest
from support.onnxmodels import as_file
from support.runs import fake_board

from agent import wire
from orchestrator.boards.base import Argument, Pending, Session
from orchestrator.boards.fake import FakeAgent
from orchestrator.boards.link import CALL_TIMEOUT_S
from orchestrator.errors import (
    AgentDied,
    BoardDiskFull,
    BoardFailure,
    BoardUnreachable,
    TransferFailed,
)
from orchestrator.pace import LEAST_BYTES
from orchestrator.transfer import File, PushState, push

CHUNK = wire.CHUNK_BYTES


def new_file(folder: Path, size_bytes: int) -> File:
    path = folder / f"{size_bytes}.bin"
    block = hashlib.sha256(str(size_bytes).encode()).digest()
    path.write_bytes((block * (size_bytes // len(block) + 1))[:size_bytes])
    return as_file(path)


def pushed(session: Session, *files: File) -> tuple[PushState, list[PushState]]:
    seen: list[PushState] = []
    return push(session, files, seen.append), seen


class Recording:
    """A fake agent's transport that notes each call, and may break one of them."""

    def __init__(self, agent: FakeAgent, on_chunk: Callable[[int], None] = lambda n: None) -> None:
        self.calls: list[tuple[str, tuple[Argument, ...]]] = []
        self._agent = agent
        self._on_chunk = on_chunk

    def begin(self, method: str, *args: Argument) -> Pending:
        number = len(self.offsets())
        self.calls.append((method, args))
        answer = self._agent.begin(method, *args)

        def wait() -> str | bytes:
            if method == "put_chunk":
                self._on_chunk(number)
            return answer()

        return wait

    def offsets(self) -> list[Argument]:
        return [args[1] for method, args in self.calls if method == "put_chunk"]

    def close(self) -> None:
        pass


@pytest.fixture
def agent() -> FakeAgent:
    return fake_board("pi").agent


@pytest.fixture
def session(agent: FakeAgent) -> Session:
    return Session("pi", agent)


@pytest.mark.parametrize(
    "size_bytes", [0, 1, CHUNK - 1, CHUNK, CHUNK + 1, 5 * CHUNK, 9 * CHUNK + 7]
)
def test_sizes(size_bytes: int, agent: FakeAgent, session: Session, tmp_path: Path) -> None:
    """A file of any size arrives whole, also where its last chunk is full or it has none."""
    file = new_file(tmp_path, size_bytes)
    state, _ = pushed(session, file)
    assert agent.files == {file.sha256: file.path.read_bytes()}
    assert state == PushState(1, 1, size_bytes, size_bytes)


def test_nothing_moves_twice(agent: FakeAgent, tmp_path: Path) -> None:
    """A file that is there costs one question for all files together and no chunk."""
    files = [new_file(tmp_path, size) for size in (10, 20)]
    line = Recording(agent)
    push(Session("pi", line), files, lambda state: None)
    line.calls.clear()
    state, seen = pushed(Session("pi", line), *files, files[0])
    assert [method for method, _ in line.calls] == ["has"]
    assert (state, seen) == (PushState(2, 0, 0, 0), [PushState(2, 0, 0, 0)])


def test_progress(session: Session, tmp_path: Path) -> None:
    """Progress begins at nothing, never goes back and ends at the total."""
    _, seen = pushed(session, new_file(tmp_path, 3 * CHUNK), new_file(tmp_path, 50))
    moved = [state.moved_bytes for state in seen]
    assert moved[0] == 0
    assert moved == sorted(moved)
    assert moved[-1] == seen[-1].missing_bytes == 3 * CHUNK + 50


def test_resume(agent: FakeAgent, tmp_path: Path) -> None:
    """A push that was cut goes on at the byte where it ended."""
    file, line = new_file(tmp_path, 3 * CHUNK), Recording(agent)
    agent.partial[file.sha256] = bytearray(file.path.read_bytes()[: CHUNK + 5])
    state, _ = pushed(Session("pi", line), file)
    assert line.offsets()[0] == CHUNK + 5
    assert state.moved_bytes == state.missing_bytes == 2 * CHUNK - 5
    assert file.sha256 in agent.files


@pytest.mark.parametrize("claimed", [-5, 10_000])
def test_a_board_that_claims_nonsense(claimed: int, agent: FakeAgent, tmp_path: Path) -> None:
    """A board that claims to have more than all or less than nothing is refused, in our words."""
    file = new_file(tmp_path, 1000)
    plain = agent._has

    def has(text: str) -> wire.Has:
        return wire.Has(complete=plain(text).complete, partial_bytes={file.sha256: claimed})

    agent._has = has  # type: ignore[method-assign]
    seen: list[PushState] = []
    try:
        push(Session("pi", agent), [file], seen.append)
    except BoardFailure:
        pass
    else:
        assert file.sha256 in agent.files
    assert all(0 <= state.moved_bytes <= state.missing_bytes <= 1000 for state in seen)


def test_changed_under_its_name(session: Session, tmp_path: Path) -> None:
    """A file with other bytes than its digest says is refused by the board, and not kept."""
    file = new_file(tmp_path, 1000)
    file.path.write_bytes(bytes(1000))
    with pytest.raises(TransferFailed, match="pi: "):
        pushed(session, file)
    found = session.has([file.sha256])
    assert (found.complete, found.partial_bytes) == ((), {})


def test_shorter_than_it_was(session: Session, tmp_path: Path) -> None:
    """A file that has become shorter is refused with both sizes and what to do."""
    file = new_file(tmp_path, 2 * CHUNK + 1)
    with file.path.open("r+b") as stream:
        stream.truncate(CHUNK + 3)
    with pytest.raises(TransferFailed, match=f"{CHUNK + 3} bytes now and was {2 * CHUNK + 1}"):
        pushed(session, file)


def test_longer_than_it_was(session: Session, tmp_path: Path) -> None:
    """A file that has grown is refused."""
    file = new_file(tmp_path, 1000)
    with file.path.open("ab") as stream:
        stream.write(b"more")
    with pytest.raises(BoardFailure):
        pushed(session, file)
    assert session.has([file.sha256]).complete == ()


def test_gone(session: Session, tmp_path: Path) -> None:
    """A file that is no longer there is named."""
    file = new_file(tmp_path, 10)
    file.path.unlink()
    with pytest.raises(TransferFailed, match=r"pi: cannot read .*10\.bin: No such file"):
        pushed(session, file)


def test_unreadable(session: Session, tmp_path: Path) -> None:
    """What opens but cannot be read is named too."""
    folder = tmp_path / "folder.onnx"
    folder.mkdir()
    with pytest.raises(TransferFailed, match=r"cannot read .*folder\.onnx: Is a directory"):
        pushed(session, File("0" * 64, 10, folder))


def test_stopped_midway(agent: FakeAgent, session: Session, tmp_path: Path) -> None:
    """A push that is told to stop ends early without an error and can be resumed."""
    file, answers = (
        new_file(tmp_path, 20 * CHUNK),
        itertools.chain([True] * 6, itertools.repeat(False)),
    )
    state = push(session, [file], lambda state: None, lambda: next(answers))
    assert 0 < state.moved_bytes < file.size_bytes
    assert len(agent.partial[file.sha256]) == state.moved_bytes
    again, _ = pushed(session, file)
    assert again.moved_bytes == file.size_bytes - state.moved_bytes
    assert file.sha256 in agent.files


def test_stopped_before_it_began(agent: FakeAgent, session: Session, tmp_path: Path) -> None:
    """Nothing is sent when the run is stopped already."""
    push(session, [new_file(tmp_path, 10)], lambda state: None, lambda: False)
    assert (agent.files, agent.partial) == ({}, {})


def test_few_chunks_under_way(agent: FakeAgent, tmp_path: Path) -> None:
    """A bounded number of chunks waits for its answer at any time."""
    waiting: list[int] = []
    line = Recording(agent, lambda n: waiting.append(len(line.offsets()) - len(waiting)))
    push(Session("pi", line), [new_file(tmp_path, 12 * CHUNK)], lambda state: None)
    assert max(waiting) == 4


def test_a_line_that_breaks_midway(agent: FakeAgent, tmp_path: Path) -> None:
    """When the line breaks under a chunk, the error comes out and what arrived is kept."""
    file = new_file(tmp_path, 8 * CHUNK)

    def breaks(number: int) -> None:
        if number == 3:
            raise AgentDied("the line broke", "pi")

    with pytest.raises(AgentDied):
        push(Session("pi", Recording(agent, breaks)), [file], lambda state: None)
    arrived = len(agent.partial[file.sha256])
    assert arrived >= 3 * LEAST_BYTES
    state, _ = pushed(Session("pi", agent), file)
    assert state.moved_bytes == file.size_bytes - arrived
    assert file.sha256 in agent.files


class Throttled:
    """A line of so many bytes a second to a fake agent, with the time-out of a real link.

    Both directions are slow; a call's answer comes when all before it has crossed.
    """

    def __init__(self, agent: FakeAgent, bytes_per_s: float, round_trip_s: float = 0.05) -> None:
        self.now_s = 0.0
        self.bytes_per_s = bytes_per_s
        self.sizes: list[int] = []
        self._agent = agent
        self._round_trip_s = round_trip_s
        self._free_s = 0.0

    def begin(self, method: str, *args: Argument) -> Pending:
        began_s = self.now_s
        size = sum(len(arg) for arg in args if isinstance(arg, bytes))
        if method == "put_chunk":
            self.sizes.append(size)
        answer = self._agent.begin(method, *args)

        def wait() -> str | bytes:
            said = answer()
            self._free_s = max(self._free_s, began_s) + (size + len(said)) / self.bytes_per_s
            done_s = max(self._free_s, began_s) + self._round_trip_s
            if done_s - began_s > CALL_TIMEOUT_S:
                raise BoardUnreachable(f"no answer to {method}", "pi")
            self.now_s = max(self.now_s, done_s)
            return said

        return wait

    def close(self) -> None:
        pass


@pytest.mark.parametrize("bytes_per_s", [4e3, 20e3, 200e3, 2e6, 100e6])
def test_a_slow_line(bytes_per_s: float, agent: FakeAgent, tmp_path: Path) -> None:
    """However slow a line is, no chunk outlasts a call's time-out, and the line is kept busy."""
    line = Throttled(agent, bytes_per_s)
    file = new_file(tmp_path, round(min(120 * bytes_per_s, 24 * CHUNK)))
    state = push(Session("pi", line), [file], lambda state: None, now_s=lambda: line.now_s)
    assert state.moved_bytes == file.size_bytes
    assert line.now_s < 1.1 * file.size_bytes / bytes_per_s + 1.0
    assert max(line.sizes) == CHUNK or bytes_per_s < 1e6


def test_a_line_that_becomes_slow(agent: FakeAgent, tmp_path: Path) -> None:
    """A line that loses nine tenths of its speed midway is followed without a lost call."""
    line = Throttled(agent, 3e6)
    file = new_file(tmp_path, 24 * CHUNK)

    def slower(state: PushState) -> None:
        if state.moved_bytes > 12 * CHUNK:
            line.bytes_per_s = 3e5

    push(Session("pi", line), [file], slower, now_s=lambda: line.now_s)
    assert file.sha256 in agent.files
    assert line.sizes[-2] < CHUNK


def test_small_files_do_not_slow_down_a_large_one(agent: FakeAgent, tmp_path: Path) -> None:
    """Files that take no more than a round trip each say nothing of the line's speed."""
    line = Throttled(agent, 100e6, round_trip_s=0.2)
    files = [new_file(tmp_path, size) for size in (*range(1, 30), 40 * CHUNK)]
    push(Session("pi", line), files, lambda state: None, now_s=lambda: line.now_s)
    assert max(line.sizes) == CHUNK


def test_a_full_disk_midway(agent: FakeAgent, tmp_path: Path) -> None:
    """A board whose disk fills up under a push is reported as that, with its own figures."""
    plain, answers = agent._serve, itertools.count()

    def full(method: str, *args: Argument) -> str | bytes:
        if method == "put_chunk" and next(answers) == 2:
            failure = wire.Failure(kind=wire.FailureKind.DISK_FULL, message="7 bytes are free")
            return wire.encode(wire.Reply[wire.Put](failure=failure))
        return plain(method, *args)

    agent._serve = full  # type: ignore[method-assign]
    with pytest.raises(BoardDiskFull, match="pi: 7 bytes are free"):
        pushed(Session("pi", agent), new_file(tmp_path, 8 * CHUNK))


def test_files_in_a_fixed_order(agent: FakeAgent, tmp_path: Path) -> None:
    """Files are pushed in the order of their digests, so that a cut push finds its place."""
    files = [new_file(tmp_path, size) for size in range(1, 9)]
    line = Recording(agent)
    push(Session("pi", line), files, lambda state: None)
    sent = [args[0] for method, args in line.calls if method == "put_chunk"]
    assert sent == sorted(sent)
    assert set(sent) == {file.sha256 for file in files}
