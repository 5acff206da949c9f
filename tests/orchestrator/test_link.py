"""The transport over a dialling process, with processes and peers that misbehave."""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from rpyc.core import consts
from support.peers import Peer, linked

from agent import wire
from orchestrator.boards import link as link_module
from orchestrator.boards.base import Session
from orchestrator.boards.link import DialFailed, ProcessLink
from orchestrator.errors import AgentDied, BoardUnreachable, ProtocolMismatch

MAGIC = f"printf '{wire.MAGIC.decode().rstrip()}\\n'"
TIMEOUT_S = 0.3


def shell(script: str) -> list[str]:
    return ["sh", "-c", script]


def children() -> set[int]:
    """Processes whose parent is this one, zombies included."""
    found = set()
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError, ValueError):
            fields = stat.read_text().rpartition(")")[2].split()
            if int(fields[1]) == os.getpid():
                found.add(int(stat.parent.name))
    return found


def open_files() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


@pytest.fixture(autouse=True)
def short_patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """Most processes here have nothing to say when they end."""
    monkeypatch.setattr(link_module, "_LAST_WORDS_S", 0.2)


@pytest.fixture(autouse=True)
def nothing_left_behind() -> object:
    """No process, zombie or file descriptor outlives a test."""
    before, files = children(), open_files()
    yield
    deadline = time.monotonic() + 3
    while open_files() > files and time.monotonic() < deadline:
        time.sleep(0.01)  # the thread that reads stderr closes it when the process has ended
    assert children() <= before
    assert open_files() <= files


# ---------------------------------------------------------------- dialling


@pytest.mark.parametrize(
    "banner",
    ["", "echo 'Welcome to the lab'; echo; ", "printf 'no line feed'; ", "printf '\\377\\0'; "],
)
def test_login_banner(banner: str) -> None:
    """Whatever a login script prints before the magic line is skipped."""
    ProcessLink.dial(shell(f"{banner}{MAGIC}; cat >&2"), "pi", 5).close()


def test_only_the_magic_line_is_taken() -> None:
    """Bytes after the magic line belong to the conversation and stay unread."""
    link = ProcessLink.dial(shell(f"{MAGIC}; printf rest; sleep 20"), "pi", 5)
    assert link._sock.recv(100) == b"rest"
    link.close()


def test_garbage_for_ever() -> None:
    """A process that prints without end is given up after a bounded number of bytes."""
    with pytest.raises(DialFailed, match="65536 other bytes"):
        ProcessLink.dial(shell("yes garbage"), "pi", 20)


def test_silence() -> None:
    """A process that says nothing is given up at the deadline, not before."""
    started = time.monotonic()
    with pytest.raises(BoardUnreachable, match=r"pi: no agent answered within 0\.3 s"):
        ProcessLink.dial(shell("sleep 60"), "pi", TIMEOUT_S)
    assert TIMEOUT_S <= time.monotonic() - started < 5


def test_drops_of_a_banner() -> None:
    """A process that prints a byte now and then meets the same deadline."""
    with pytest.raises(BoardUnreachable):
        ProcessLink.dial(shell("while :; do printf x; sleep 0.05; done"), "pi", TIMEOUT_S)


def test_early_exit() -> None:
    """A process that ends first is reported with its exit code and its own words."""
    with pytest.raises(DialFailed) as caught:
        ProcessLink.dial(shell("echo out; echo 'no such key' >&2; exit 7"), "pi", 5)
    assert (caught.value.exit_code, caught.value.stderr) == (7, "no such key")


def test_early_exit_after_many_words() -> None:
    """Only the end of a long complaint is kept, and nobody waits for its beginning to be read."""
    script = "head -c 3000000 /dev/zero | tr '\\0' x >&2; echo ' the end' >&2; exit 7"
    with pytest.raises(DialFailed) as caught:
        ProcessLink.dial(shell(script), "pi", 20)
    assert caught.value.stderr.endswith("x the end")
    assert len(caught.value.stderr) <= 8192


def test_words_of_an_undecodable_kind() -> None:
    """Words that are no UTF-8 are shown all the same."""
    with pytest.raises(DialFailed) as caught:
        ProcessLink.dial(shell("printf 'br\\374ke' >&2; exit 1"), "pi", 5)
    assert caught.value.stderr == "br\ufffdke"


def test_killed_while_dialling() -> None:
    """A process that a signal ends is reported with that signal."""
    with pytest.raises(DialFailed) as caught:
        ProcessLink.dial(shell("kill -9 $$"), "pi", 5)
    assert caught.value.exit_code == -9


def test_no_such_program() -> None:
    """A program that does not exist is an OSError for the caller to explain."""
    with pytest.raises(FileNotFoundError):
        ProcessLink.dial(["/no/such/program"], "pi", 5)


def test_a_process_that_will_not_end() -> None:
    """A process that ignores the request to end is killed, and so is what it started."""
    link = ProcessLink.dial(shell(f"trap '' TERM; {MAGIC}; sleep 60"), "pi", 5)
    started = time.monotonic()
    link.close()
    assert time.monotonic() - started < 4
    link.close()


# ---------------------------------------------------------------- talking


def answering(label: int, value: object) -> Callable[[Peer, int], None]:
    return lambda peer, seq: peer.reply(seq, label, value)


def test_text_and_bytes() -> None:
    """Text and bytes come back as they are, and several calls may be under way."""
    calls = []

    def on_call(peer: Peer, seq: int) -> None:
        calls.append(seq)
        peer.reply(seq, consts.LABEL_VALUE, "text" if len(calls) == 1 else b"bytes")

    with linked(on_call, 5) as link:
        first, second = link.begin("hello"), link.begin("read")
        assert second() == b"bytes"
        assert first() == "text"


@pytest.mark.parametrize(
    ("label", "value"),
    [
        (consts.LABEL_VALUE, 7),
        (consts.LABEL_VALUE, None),
        (consts.LABEL_VALUE, ("a", "b")),
        (consts.LABEL_TUPLE, ((consts.LABEL_VALUE, "a"),)),
        (consts.LABEL_REMOTE_REF, ("builtins.str", 1, 1)),
        (consts.LABEL_REMOTE_REF, ("some.Text", 1, 1)),
        (consts.LABEL_LOCAL_REF, ("an.Object", 1, 1)),
        (99, "text"),
    ],
)
def test_an_answer_of_another_kind(label: int, value: object) -> None:
    """An answer that is neither text nor bytes is refused, a reference to an object above all."""
    with linked(answering(label, value), 5) as link:
        with pytest.raises(wire.WireError, match="pi: hello"):
            link.begin("hello")()
        with pytest.raises(AgentDied):
            link.begin("hello")()


@pytest.mark.parametrize(
    ("module", "name"),
    [
        ("builtins", "SystemExit"),
        ("builtins", "KeyboardInterrupt"),
        ("builtins", "GeneratorExit"),
        ("builtins", "TimeoutError"),
        ("builtins", "EOFError"),
        ("builtins", "ValueError"),
        ("agent.errors", "Refused"),
        ("orchestrator.errors", "Interrupted"),
        ("some.where", "X" * 100_000),
    ],
)
def test_an_exception_from_the_far_side(module: str, name: str) -> None:
    """Whatever the far side raises is our WireError, also what would end this process."""
    with (
        linked(lambda peer, seq: peer.throw(seq, module, name), 5) as link,
        pytest.raises(wire.WireError, match="pi: hello failed inside the agent: ") as caught,
    ):
        link.begin("hello")()
    assert name[:20] in str(caught.value)
    assert len(str(caught.value)) < 200


@pytest.mark.parametrize("name", ["__class__", "__traceback__", "__cause__", "args"])
def test_an_exception_with_odd_attributes(name: str) -> None:
    """An exception that cannot be put together is our WireError as well."""
    with (
        linked(lambda peer, seq: peer.throw(seq, "builtins", "OSError", ((name, 7),)), 5) as link,
        pytest.raises(wire.WireError),
    ):
        link.begin("hello")()


def test_stop_iteration() -> None:
    """The one exception that rpyc sends as a number is our WireError too."""
    with (
        linked(
            lambda peer, seq: peer.send(consts.MSG_EXCEPTION, seq, consts.EXC_STOP_ITERATION), 5
        ) as link,
        pytest.raises(wire.WireError),
    ):
        link.begin("hello")()


def test_oversize_frame() -> None:
    """A frame longer than agreed is refused before memory is set aside for it."""
    with (
        linked(lambda peer, seq: peer.frame(b"", length=(1 << 32) - 1), 5) as link,
        pytest.raises(wire.WireError, match="a frame of 4294967295 bytes"),
    ):
        link.begin("hello")()


def test_compressed_frame() -> None:
    """A compressed frame is refused: its length says nothing of what it becomes."""
    with (
        linked(lambda peer, seq: peer.frame(b"x" * 40, compressed=1), 5) as link,
        pytest.raises(wire.WireError, match="a compressed frame"),
    ):
        link.begin("hello")()


@pytest.mark.parametrize(
    "data", [b"\0", b"\x07rubbish", b"\x02\xff\xff\xff", b"\x02" + b"\x0f" * 9]
)
def test_rubbish_in_a_frame(data: bytes) -> None:
    """A frame that holds no message is an error of the agent's, at once."""
    started = time.monotonic()
    with (
        linked(lambda peer, seq: peer.frame(data), 5) as link,
        pytest.raises(wire.BenchError),
    ):
        link.begin("hello")()
    assert time.monotonic() - started < 4


def test_no_answer() -> None:
    """A call that is not answered is given up at its deadline."""
    with linked(lambda peer, seq: None, TIMEOUT_S) as link:
        started = time.monotonic()
        with pytest.raises(BoardUnreachable, match=r"no answer to hello within 0\.3 s"):
            link.begin("hello")()
        assert time.monotonic() - started < 4


def test_stall_inside_a_frame() -> None:
    """A peer that stops in the middle of a frame is given up as well."""
    with linked(lambda peer, seq: peer.sock.sendall(b"\0\0\1\0\0half"), TIMEOUT_S) as link:
        started = time.monotonic()
        with pytest.raises((AgentDied, BoardUnreachable)):
            link.begin("hello")()
        assert time.monotonic() - started < 5


def test_a_frame_in_drops() -> None:
    """A peer that sends its answer a byte at a time, for ever, is cut as well."""
    ended = threading.Event()

    def drip(peer: Peer, seq: int) -> None:
        peer.sock.sendall(b"\0\1\0\0\0")
        while not ended.wait(0.05):
            peer.sock.sendall(b"x")

    with linked(drip, TIMEOUT_S) as link:
        started = time.monotonic()
        with pytest.raises((AgentDied, BoardUnreachable)):
            link.begin("hello")()
        assert time.monotonic() - started < 5
        ended.set()


def test_requests_instead_of_an_answer() -> None:
    """A peer that only asks is refused every time and meets the deadline of the call."""
    asked = []

    def on_call(peer: Peer, seq: int) -> None:
        while len(asked) < 200_000:
            asked.append(seq)
            body = (consts.HANDLE_GETATTR, (consts.LABEL_TUPLE, ()))
            peer.send(consts.MSG_REQUEST, len(asked), body)

    with linked(on_call, TIMEOUT_S) as link:
        started = time.monotonic()
        with pytest.raises((AgentDied, BoardUnreachable)):
            link.begin("hello")()
        assert time.monotonic() - started < 5
    assert asked


def test_a_peer_that_does_not_read() -> None:
    """Data that nobody takes is not waited for longer than a call may last."""
    blocked = threading.Event()
    with linked(lambda peer, seq: blocked.wait(5) and None, TIMEOUT_S) as link:
        started = time.monotonic()

        def push() -> None:
            for _ in range(64):
                link.begin("put_chunk", bytes(wire.CHUNK_BYTES))

        with pytest.raises((AgentDied, BoardUnreachable)):
            push()
        assert time.monotonic() - started < 5
        blocked.set()


def test_hang_up_in_a_call() -> None:
    """A connection that ends during a call is an agent that died, and the call is named."""
    with (
        linked(lambda peer, seq: peer.sock.close(), 5) as link,
        pytest.raises(AgentDied, match="pi: the connection to the agent ended during poll"),
    ):
        link.begin("poll")()


def test_last_words_of_the_process() -> None:
    """When the dialling process dies in the middle, the error has its own words."""
    link = ProcessLink.dial(shell(f"{MAGIC}; read x; echo 'Timeout, no answer' >&2"), "pi", 5, 5)
    link._sock.sendall(b"\n")
    with pytest.raises(AgentDied, match="Timeout, no answer"):
        link.begin("hello")()


def test_complaints_without_end_do_not_block() -> None:
    """A process may complain on stderr as much as it likes without stopping the conversation."""
    script = f"{MAGIC}; head -c 2000000 /dev/zero >&2; printf done; sleep 20"
    link = ProcessLink.dial(shell(script), "pi", 5)
    link._sock.settimeout(10)
    assert link._sock.recv(100) == b"done"
    link.close()


def test_close_does_not_wait() -> None:
    """Closing takes no answer from the far side, and a second time does nothing."""
    with linked(lambda peer, seq: None, 30) as link:
        pending = link.begin("hello")
        started = time.monotonic()
        link.close()
        link.close()
        assert time.monotonic() - started < 3
        with pytest.raises(AgentDied):
            pending()


# ---------------------------------------------------------------- the typed session over it


def session_with(answer: object) -> contextlib.AbstractContextManager[ProcessLink]:
    return linked(answering(consts.LABEL_VALUE, answer), 5)


@pytest.mark.parametrize(
    "answer",
    [
        "", "null", "{}", "[1]", '{"ok": null, "failure": null}', '{"ok": 7}', b"{}",
        '{"ok": {"protocol": "1"}}', "[" * 100_000, '{"ok": true, "extra": 1}',
    ],
)  # fmt: skip
def test_hello_of_another_shape(answer: object) -> None:
    """Text that is no reply is a WireError, however it is wrong."""
    with session_with(answer) as link, pytest.raises(wire.WireError):
        Session("pi", link).hello("host")


def test_hello_of_another_protocol() -> None:
    """An agent of another protocol is named as that, whatever else its answer holds."""
    with (
        session_with('{"ok": {"protocol": 9, "new_field": []}}') as link,
        pytest.raises(ProtocolMismatch, match=f"protocol 9, this host {wire.PROTOCOL}"),
    ):
        Session("pi", link).hello("host")


def test_more_bytes_than_asked_for() -> None:
    """A board that sends more of a part than it was asked for is refused."""
    with session_with(b"12345") as link, pytest.raises(wire.WireError, match="5 bytes"):
        Session("pi", link).read("t", "samples", 0, 4)
