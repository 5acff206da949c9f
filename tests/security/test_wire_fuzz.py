"""Random and mutated bytes in both directions of the wire: neither side falls over."""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from rpyc.core import brine, consts
from rpyc.core.stream import SocketStream
from support.agentkit import NsClock, Talk, ToldTelemetry, fake_worker
from support.peers import Peer, linked

from agent import fingerprint, wire
from agent.artifacts import Artifacts
from agent.connection import CONFIG
from agent.lease import Lease
from agent.runner import Surroundings
from agent.service import Agent, AgentService
from agent.supervisor import Supervisor
from agent.wire.channel import CappedChannel
from orchestrator.boards import link as link_module

HEAD = struct.Struct("!LB")
PATIENCE_S = 5.0

plain = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False)
    | st.text(max_size=20)
    | st.binary(max_size=20),
    lambda inner: st.lists(inner, max_size=4).map(tuple),
    max_leaves=12,
)
names = st.sampled_from(sorted(AgentService.METHODS)) | st.text(max_size=20)
labels = st.sampled_from(
    [consts.LABEL_VALUE, consts.LABEL_TUPLE, consts.LABEL_LOCAL_REF, consts.LABEL_REMOTE_REF, 9]
)
handlers = st.integers(0, 25)


def framed(body: bytes) -> bytes:
    return HEAD.pack(len(body), 0) + body + b"\n"


def message(kind: int, sequence: int, body: object) -> bytes:
    return framed(bytes([kind]) + brine.dump((sequence, body)))


requests = st.builds(
    lambda sequence, handler, label, args: message(
        consts.MSG_REQUEST, sequence, (handler, (label, args))
    ),
    st.integers(0, 9), handlers, labels, plain,
)  # fmt: skip
answers = st.builds(
    lambda kind, sequence, label, value: message(kind, sequence, (label, value)),
    st.sampled_from([consts.MSG_REPLY, consts.MSG_EXCEPTION, consts.MSG_REQUEST]),
    st.integers(0, 9), labels, plain,
)  # fmt: skip
texts = st.builds(
    lambda text: message(consts.MSG_REPLY, 1, (consts.LABEL_VALUE, text)), st.text(max_size=50)
)


@st.composite
def mutated(draw: st.DrawFn, frames: st.SearchStrategy[bytes]) -> bytes:
    """A valid frame, some of whose bytes are others, missing or repeated."""
    data = bytearray(draw(frames))
    for _ in range(draw(st.integers(0, 4))):
        place = draw(st.integers(0, len(data)))
        data[place : place + draw(st.integers(0, 3))] = draw(st.binary(max_size=3))
    return bytes(data)


# ---------------------------------------------------------------- into the agent


class Served:
    """An agent's service in this process; each connection has a thread, as in the daemon."""

    def __init__(self, folder: Path) -> None:
        artifacts = Artifacts(folder / "artifacts")
        self.lease = Lease(folder / "lock", NsClock())
        around = Surroundings(ToldTelemetry(), fake_worker(folder, ""))
        supervisor = Supervisor(folder / "trials", artifacts, self.lease, around)
        told = wire.Diagnosis(complete=True, board_utc_ns=7, machine_id=None, checks=())
        parts = (fingerprint.read, around.telemetry, artifacts, self.lease, supervisor)
        self.service = AgentService(Agent("d" * 64, *parts, lambda: told))
        self.crashes: list[BaseException] = []

    @contextlib.contextmanager
    def connected(self) -> Iterator[socket.socket]:
        """The far end of a new connection; it has ended within a bounded time afterwards."""
        ours, theirs = socket.socketpair()
        thread = threading.Thread(target=self._serve, args=(theirs,), daemon=True)
        thread.start()
        try:
            yield ours
        finally:
            ours.close()
            thread.join(PATIENCE_S)
            assert not thread.is_alive()

    def _serve(self, sock: socket.socket) -> None:
        sock.settimeout(PATIENCE_S)
        try:
            connection = self.service._connect(CappedChannel(SocketStream(sock)), CONFIG)
            while not connection.closed and connection.serve(PATIENCE_S):
                pass
        except Exception:  # noqa: BLE001, S110 - as in the daemon: it ends this connection only
            pass
        except BaseException as exc:  # noqa: BLE001 - this would have ended the agent
            self.crashes.append(exc)
        finally:
            sock.close()
            with contextlib.suppress(Exception):
                connection.close()


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    made = Served(tmp_path_factory.mktemp("fuzz"))
    yield made
    made.lease.close()


fuzzed = settings(
    max_examples=80, deadline=None, suppress_health_check=[HealthCheck.too_slow], database=None
)


@fuzzed
@given(st.lists(st.binary(max_size=200) | requests | mutated(requests) | st.binary().map(framed)))
@example([HEAD.pack((1 << 32) - 1, 0)])
@example([HEAD.pack(5, 1) + b"aaaaa\n"])
@example([framed(b"\x01" + b"\x0f" * 3000)])
def test_bytes_into_the_agent(served: Served, frames: list[bytes]) -> None:
    """Whatever arrives ends its own connection at worst; the next one is answered as ever."""
    with served.connected() as sock:
        sock.settimeout(PATIENCE_S)
        with contextlib.suppress(OSError):  # it may have hung up after the first of them
            for frame in frames:
                sock.sendall(frame)
    assert served.crashes == []


def test_the_agent_after_all_that(served: Served) -> None:
    """After the fuzzing above the agent says hello, and holds no lease and no file."""
    with served.connected() as sock:
        talk = Talk(sock)
        assert talk.hello().lease is None
        assert talk.ok(list[str], "trials") == []
        talk.close()


calls = st.tuples(names, st.lists(plain | st.text(max_size=80), max_size=5))


@fuzzed
@given(calls)
def test_calls_of_the_agent(served: Served, call: tuple[str, list[object]]) -> None:
    """A method called with anything at all answers with data, or is not there."""
    name, args = call
    with served.connected() as sock:
        talk = Talk(sock)
        try:
            answer = talk.raw(name, *args)
        except AttributeError:
            assert name not in AgentService.METHODS
        else:
            assert type(answer) in (str, bytes)
        talk.close()


# ---------------------------------------------------------------- into the host


@pytest.fixture(scope="module")
def no_last_words() -> Iterator[None]:
    """The process beside these links has nothing to say when its connection ends."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(link_module, "_LAST_WORDS_S", 0.0)
        yield


@pytest.mark.usefixtures("no_last_words")
@fuzzed
@given(st.binary(max_size=200) | answers | mutated(answers) | mutated(texts) | texts)
def test_bytes_into_the_host(data: bytes) -> None:
    """Whatever a board answers is text or bytes of the protocol, or one of our own errors."""

    def on_call(peer: Peer, _seq: int) -> None:
        peer.sock.sendall(data)
        peer.sock.shutdown(socket.SHUT_WR)

    with linked(on_call, PATIENCE_S) as link, contextlib.suppress(wire.BenchError):
        assert type(link.begin("hello")()) in (str, bytes)


@fuzzed
@given(st.text(max_size=100) | st.binary(max_size=100) | plain.map(repr))
def test_texts_into_the_decoder(text: str | bytes) -> None:
    """Any text is a message or a WireError, on both sides."""
    for kind in (
        wire.Hello, wire.Poll, wire.Outcome, wire.TrialSpec, wire.ImageDetections, wire.ImageMask,
    ):  # fmt: skip
        with contextlib.suppress(wire.WireError):
            assert wire.decode_reply(text, kind) is not None


@fuzzed
@given(st.binary(max_size=300))
@example(wire.samples_header(2**60, (1, 2, 3)))
@example(wire.samples_header(0, (2**63, 2**63, 0)))
def test_samples_into_the_decoder(data: bytes) -> None:
    """Any bytes are samples that add up or a WireError."""
    with contextlib.suppress(wire.WireError):
        samples = wire.decode_samples(data)
        assert sum(samples.counts) == len(samples.latency_ns) == len(samples.gap_ns)
