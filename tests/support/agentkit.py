"""Parts for tests of the agent: a clock that stands still, telemetry that is told, fake workers."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import rpyc
from rpyc.core.stream import SocketStream

import agent
from agent import wire
from agent.dial import connect
from agent.home import Home, open_home, own_command
from agent.wire.bundle import bundle_digest
from agent.wire.channel import CappedChannel

NS_PER_S = 1_000_000_000
SHA = "ab" * 32

PREAMBLE = """
import json, os, signal, struct, sys, time
trial = sys.argv[1]
def emit(event, **fields):
    print(json.dumps({"event": event, **fields}), flush=True)
def phase(name):
    emit("phase_started", phase=name, monotonic_ns=time.monotonic_ns())
def loaded():
    emit("loaded", load_ns=5, runtime_version="9.9", settings={"a": "b"}, inputs_kind="synthetic")
def ended(calls=0):
    emit("ended", short=False, calls=calls, peak_rss_bytes=7)
def samples(counts, latencies, capacity=100):
    # Whole at once, as a worker's file never shrinks: who has it mapped would get a bus error.
    with open(f"{trial}/samples.new", "wb") as f:
        f.write(struct.pack("<8sQQQQ", b"OBSAMPL1", capacity, *counts))
        for column in (latencies, [1] * len(latencies)):
            column = column + [0] * (capacity - len(column))
            f.write(struct.pack(f"<{capacity}Q", *column))
    os.replace(f"{trial}/samples.new", f"{trial}/samples.bin")
"""

GOOD_TRIAL = """
phase("load"); loaded(); phase("cold"); phase("warmup"); phase("sample")
samples((1, 2, 5), [900, 50, 40, 10, 11, 12, 13, 14])
ended(8)
"""


class NsClock:
    """Monotonic nanoseconds that pass when told."""

    def __init__(self) -> None:
        self.now_ns = 1000 * NS_PER_S

    def __call__(self) -> int:
        return self.now_ns

    def pass_s(self, seconds: float) -> None:
        self.now_ns += round(seconds * NS_PER_S)


@dataclass
class ToldTelemetry:
    """Telemetry that says what it is told; remembers for which processes it was asked."""

    available_bytes: int | None = 4 << 30
    pids: list[int | None] = field(default_factory=list)

    @property
    def sources(self) -> wire.Sources:
        return wire.Sources(temp="told", clock=None, throttled=None, power=None)

    def read(self, worker_pid: int | None) -> wire.Reading:
        self.pids.append(worker_pid)
        return wire.Reading(
            t_ns=time.monotonic_ns(), temp_c=41.5, clock_hz=None, throttled_bits=None,
            memory_available_bytes=self.available_bytes, worker_rss_bytes=None, power_w=None,
        )  # fmt: skip


def fake_worker(folder: Path, body: str) -> Callable[[Path], Sequence[str]]:
    """The command of a worker that does what `body` says, in the words of PREAMBLE."""
    script = folder / "fake_worker.py"
    script.write_text(PREAMBLE + body)
    return lambda directory: [sys.executable, "-I", "-S", str(script), str(directory)]


def short_scenario(warmup_min_samples: int = 2) -> wire.Scenario:
    return wire.Scenario(
        warmup_min_samples=warmup_min_samples, warmup_min_duration_ns=0, min_samples=5,
        min_duration_ns=0, max_duration_ns=10 * NS_PER_S,
    )  # fmt: skip


def trial_spec(
    trial_id: str = "trial-1",
    *,
    run_id: str = "run-1",
    sha256: str = SHA,
    size_bytes: int = 4,
    deadline_s: float = 20.0,
    images: Sequence[str] = (),
    scenario: wire.Scenario | None = None,
) -> wire.TrialSpec:
    prep = wire.ImagePrep(height=32, width=32)
    refs = tuple(wire.ImageRef(sha256=sha, image_id=f"i{n}") for n, sha in enumerate(images))
    head = wire.DetectHead(decoder="yolo_v8", num_classes=2)
    return wire.TrialSpec(
        trial_id=trial_id,
        run_id=run_id,
        artifact=wire.ArtifactRef(sha256=sha256, size_bytes=size_bytes, format="onnx"),
        options=wire.RuntimeOptions(intra_op_num_threads=1),
        scenario=scenario or short_scenario(),
        inputs=wire.Inputs(),
        deadline_ns=round(deadline_s * NS_PER_S),
        evaluation=wire.Evaluation(refs, prep, head, NS_PER_S) if images else None,
    )


def wait_until(condition: Callable[[], bool], limit_s: float = 10.0) -> None:
    """Wait for another thread or process; fails the test when it takes too long."""
    deadline = time.monotonic() + limit_s
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.005)


@dataclass
class AgentProcess:
    """A daemon of its own, in a home of its own."""

    home: Home
    serve: tuple[str, ...]
    children: list[subprocess.Popen[bytes]] = field(default_factory=list)

    def pid(self) -> int | None:
        """Process that holds the home, None where none does."""
        try:
            with self.home.lock.open("rb") as stream:
                fcntl.flock(stream, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return int(json.loads(self.home.lock.read_text())["pid"])
        except FileNotFoundError:
            pass
        return None

    def connect(self) -> socket.socket:
        """A greeted connection; starts the daemon if needed."""
        deadline = time.monotonic() + 30
        while time.monotonic() < deadline:
            sock = connect(self.home, 30.0)
            if sock is not None:
                return sock
            if all(child.poll() is not None for child in self.children):
                with self.home.log.open("ab") as log:
                    self.children.append(
                        subprocess.Popen(
                            self.serve, stdin=subprocess.DEVNULL, stdout=log, stderr=log
                        )
                    )
            time.sleep(0.02)
        raise AssertionError(self.home.log.read_text())

    def talk(self) -> Talk:
        return Talk(self.connect())

    def kill(self, number: int = signal.SIGKILL) -> None:
        """End the daemon, if it runs, and wait until it has gone."""
        pid = self.pid()
        if pid is not None:
            os.kill(pid, number)
            wait_until(lambda: self.pid() is None)
        for child in self.children:
            child.wait(10)


class Talk:
    """Calls over one rpyc connection, as raw as they cross."""

    def __init__(self, sock: socket.socket) -> None:
        sock.settimeout(20)
        self.connection: Any = rpyc.Connection(
            rpyc.VoidService(), CappedChannel(SocketStream(sock)), {"sync_request_timeout": 20}
        )
        self._sock = sock

    def raw(self, method: str, *args: object) -> Any:
        return getattr(self.connection.root, method)(*args)

    def ok(self, kind: Any, method: str, *args: object) -> Any:
        reply = wire.decode_reply(self.raw(method, *args), kind)
        assert reply.failure is None, reply.failure
        return reply.ok

    def failure(self, method: str, *args: object) -> wire.Failure:
        reply = wire.decode_reply(self.raw(method, *args), Any)
        assert reply.failure is not None, reply.ok
        failure: wire.Failure = reply.failure
        return failure

    def hello(self) -> wire.Hello:
        request = wire.HelloRequest(protocol=wire.PROTOCOL, host="test")
        hello: wire.Hello = self.ok(wire.Hello, "hello", wire.encode(request))
        return hello

    def close(self) -> None:
        self._sock.close()
        with contextlib.suppress(Exception):
            self.connection.close()


@contextlib.contextmanager
def agent_process(folder: Path, idle_s: float = 60.0) -> Iterator[AgentProcess]:
    """A daemon that is started by the first connection and killed at the end."""
    root = folder / "home"
    lock = folder / "board.lock"
    serve = (
        *own_command(), "serve", "--home", str(root), "--lock", str(lock), "--idle-s", str(idle_s),
    )  # fmt: skip
    process = AgentProcess(open_home(root, agent_digest()), serve)
    try:
        yield process
    finally:
        process.kill()
        process.home.socket.unlink(missing_ok=True)
        if process.home.socket.parent != process.home.root:  # a long path's, in /tmp
            process.home.socket.parent.rmdir()


def agent_digest() -> str:
    return bundle_digest(Path(agent.__file__).parent)


class Dialled:
    """`agent dial` as the host runs it: one socket is its stdin and its stdout."""

    every: ClassVar[list[Dialled]] = []

    def __init__(self, command: Sequence[str]) -> None:
        self.sock, theirs = socket.socketpair()
        self.sock.settimeout(30)
        self.process = subprocess.Popen(
            command, stdin=theirs, stdout=theirs, stderr=subprocess.PIPE, start_new_session=True
        )
        theirs.close()
        self.talk: Talk | None = None  # kept, for rpyc hangs up when it is dropped
        self.every.append(self)

    def greeted(self) -> Talk:
        """Calls over this connection, once the magic line is there."""
        assert read_exactly(self.sock, len(wire.MAGIC)) == wire.MAGIC
        self.talk = Talk(self.sock)
        return self.talk

    def end(self) -> tuple[int, str]:
        """Hang up, and return the exit code and what was said on stderr."""
        if self.talk is not None:
            self.talk.close()
        self.sock.close()
        if self.process.stderr is None or self.process.stderr.closed:
            return self.process.returncode, ""
        _, said = self.process.communicate(timeout=20)
        return self.process.returncode, said.decode()


def read_exactly(sock: socket.socket, count: int) -> bytes:
    """So many bytes, or fewer where the far side ends."""
    data = b""
    while len(data) < count:
        piece = sock.recv(count - len(data))
        if not piece:
            break
        data += piece
    return data
