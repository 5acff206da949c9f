from __future__ import annotations

import os
import pty
import socket
import termios
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from support.virtual import make_fake_lab

from orchestrator import cli
from orchestrator.lab import console, monitor
from orchestrator.lab.errors import VirtualBoardFailed
from orchestrator.lab.layout import BoardFolder

Answers = Callable[[socket.socket], None]


@pytest.fixture
def emulator(tmp_path: Path) -> Iterator[Callable[[Answers], Path]]:
    """Starts a monitor that answers one visitor, at a path too long for a socket's name."""
    folder = tmp_path / ("x" * 100) / "pi5-virtual"
    folder.mkdir(parents=True)
    threads: list[threading.Thread] = []
    listener = socket.socket(socket.AF_UNIX)

    def start(answers: Answers) -> Path:
        handle = os.open(folder, os.O_RDONLY)
        listener.bind(f"/proc/self/fd/{handle}/monitor")
        os.close(handle)
        listener.listen()

        def serve() -> None:
            with listener.accept()[0] as visitor:
                answers(visitor)

        threads.append(threading.Thread(target=serve))
        threads[0].start()
        return folder / "monitor"

    yield start
    for thread in threads:
        thread.join(10)
    listener.close()


def says(*lines: bytes) -> Answers:
    def answer(visitor: socket.socket) -> None:
        visitor.sendall(lines[0])
        for line in lines[1:]:
            visitor.recv(4096)
            visitor.sendall(line)

    return answer


def test_a_command_is_answered_past_events(emulator: Callable[[Answers], Path]) -> None:
    """What the emulator reports by itself is skipped; the answer to the command is returned."""
    path = emulator(
        says(b'{"QMP": {}}\n', b'{"return": {}}\n', b'{"event": "RESET"}\n{"return": {"a": 1}}\n')
    )
    assert monitor.command(path, "query-status", name="nic0") == {"a": 1}


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        (b'{"error": {"desc": "Device nic9 not found"}}\n', "refused 'set_link': Device nic9"),
        (b"garbage\n", "ended in the middle of an answer"),
        (b"[1]\n", "answered list"),
        (b"", "ended in the middle of an answer"),
    ],
)
def test_a_monitor_that_does_not_do_it_is_an_error(
    emulator: Callable[[Answers], Path], answer: bytes, expected: str
) -> None:
    """Refusals, nonsense and a sudden end are errors that name the board."""
    path = emulator(says(b'{"QMP": {}}\n', b'{"return": {}}\n', answer))
    with pytest.raises(VirtualBoardFailed, match=f"pi5-virtual: .*{expected}"):
        monitor.command(path, "set_link", name="nic9", up=False)


def test_a_silent_monitor_is_given_up(
    emulator: Callable[[Answers], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """An emulator that is frozen says nothing: the command fails at its deadline."""
    monkeypatch.setattr(monitor, "TIMEOUT_S", 0.1)
    path = emulator(lambda visitor: visitor.recv(1))
    with pytest.raises(VirtualBoardFailed, match=r"did not answer .*is it frozen"):
        monitor.command(path, "quit")


def test_a_monitor_that_is_gone_says_how_to_start_the_board(tmp_path: Path) -> None:
    """Without a socket, or with nobody behind it, the board is off."""
    with pytest.raises(VirtualBoardFailed, match=r"emulator is gone .*orchestrator lab up"):
        monitor.command(tmp_path / "monitor", "quit")
    with pytest.raises(VirtualBoardFailed, match="emulator is gone"):
        monitor.command(tmp_path / "no such board" / "monitor", "quit")


def test_a_terminal_is_joined_to_the_console() -> None:
    """Bytes go both ways until Ctrl-], which is not passed on; what was typed before it is."""
    ours, theirs = socket.socketpair()
    keyboard, typist = os.pipe()
    reader, screen = os.pipe()
    pumping = threading.Thread(target=console.pump, args=(keyboard, screen, ours.fileno()))
    pumping.start()
    theirs.sendall(b"login: ")
    assert os.read(reader, 100) == b"login: "
    os.write(typist, b"ls\n" + console.LEAVE + b"never sent")
    pumping.join(10)
    assert not pumping.is_alive()
    assert theirs.recv(100) == b"ls\n"
    for handle in (keyboard, typist, reader, screen):
        os.close(handle)
    ours.close()
    theirs.close()


def test_a_console_that_ends_ends_the_terminal() -> None:
    """When the board is switched off, the terminal is given back."""
    ours, theirs = socket.socketpair()
    keyboard, typist = os.pipe()
    with ours:
        theirs.close()
        console.pump(keyboard, keyboard, ours.fileno())
    os.close(keyboard)
    os.close(typist)


def test_the_terminal_is_as_before_after_the_console(tmp_path: Path) -> None:
    """`attach` makes the terminal raw and restores it, also when the board is off."""
    ours, theirs = pty.openpty()
    before = termios.tcgetattr(theirs)
    with console._raw(theirs):
        assert termios.tcgetattr(theirs) != before
    assert termios.tcgetattr(theirs) == before
    os.close(ours)
    os.close(theirs)
    with pytest.raises(VirtualBoardFailed, match=r"pi5-virtual: no console .*is the board up"):
        console.attach(BoardFolder(tmp_path / "pi5-virtual"))


def test_the_console_without_a_terminal_is_its_log(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Piped, `lab console` prints what was said, and a board cannot move the cursor with it."""
    lab = make_fake_lab(tmp_path / "ws", monkeypatch)
    monkeypatch.chdir(lab.place.root)
    try:
        assert cli.main(["lab", "up", "pi5-virtual"]) == 0
        assert cli.main(["lab", "console", "pi5-virtual"]) == 0
        out = capsys.readouterr().out
        assert out == "booting\nfake kernel says \\x1b[2Jhello\n"
        assert cli.main(["lab", "status"]) == 0
        assert "pi5-virtual  up     cortex-a76" in capsys.readouterr().out
        assert cli.main(["lab", "remove"]) == 0
        assert cli.main(["lab", "status"]) == 0
        assert "no virtual boards; `orchestrator lab up pi5-virtual`" in capsys.readouterr().out
        assert cli.main(["lab", "down", "pi5-virtual"]) == 12
    finally:
        lab.end_everything()
