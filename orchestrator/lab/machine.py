"""One virtual board: made, started, waited for, stopped; its state file kept true."""

from __future__ import annotations

import contextlib
import functools
import os
import signal
import socket
import subprocess
import time
from collections.abc import Sequence
from typing import Final

import msgspec

from orchestrator.boards.sshcommand import SshTarget
from orchestrator.lab import monitor, process, qemu
from orchestrator.lab.errors import VirtualBoardFailed
from orchestrator.lab.kinds import kind_of
from orchestrator.lab.layout import BoardFolder, BoardState, Lab
from orchestrator.lab.process import ProcessId

LOOPBACK: Final = "127.0.0.1"
START_TIMEOUT_S: Final = 60.0
"""Until the emulator has opened everything; it takes less than a second."""
BOOT_TIMEOUT_S: Final = 240.0
"""Until a login succeeds: 5 to 25 s on an idle host, more where others compute."""
SYNC_TIMEOUT_S: Final = 15.0
QUIT_TIMEOUT_S: Final = 10.0
_LOGIN_TIMEOUT_S: Final = 30.0
_PROBE_TIMEOUT_S: Final = 8.0
"""An sshd starts anew for each connection, which takes an emulated board a second or two."""
_POLL_S: Final = 0.3
_PORT_TRIES: Final = 5
_CONSOLE_LINES: Final = 8


def running(lab: Lab, folder: BoardFolder) -> ProcessId | None:
    """The board's emulator; found by its mark where a crash kept its pid from being recorded."""
    state = folder.read()
    if state is not None and state.process is not None and process.is_running(state.process):
        return state.process
    role = process.board_role(folder.name)
    found = [one for one, its_role in process.marked(lab.root).items() if its_role == role]
    return found[0] if found else None


def recorded(folder: BoardFolder) -> BoardState:
    """The board's state; raises VirtualBoardFailed where none can be read."""
    state = folder.read()
    if state is None:
        raise VirtualBoardFailed(
            f"{folder.name}: {folder.state_file} cannot be read; make the board again with "
            f"`orchestrator lab remove {folder.name}` and `orchestrator lab up {folder.name}`"
        )
    return state


def make_disk(lab: Lab, folder: BoardFolder, image: str) -> None:
    """An empty disk over an image; raises VirtualBoardFailed."""
    folder.disk.unlink(missing_ok=True)
    result = _run(qemu.overlay_argv(folder, image), lab, folder)
    if result.returncode != 0:
        raise VirtualBoardFailed(f"{folder.name}: no disk for it: {result.stderr.strip()}")


def start(lab: Lab, folder: BoardFolder, clock_utc: str | None = None) -> BoardState:
    """Switch a stopped board on, on another port where something else has taken its own.

    Raises VirtualBoardFailed with the emulator's words.
    """
    state = recorded(folder)
    root = dropping()
    for _ in range(_PORT_TRIES):
        for leftover in (folder.monitor, folder.console):
            leftover.unlink(missing_ok=True)
        words = qemu.argv(kind_of(folder.name), state, drop_privileges=root, clock_utc=clock_utc)
        result = _run(words, lab, folder)
        if "host forwarding" not in result.stderr:
            break
        state = folder.write(msgspec.structs.replace(state, port=free_port()))
    if result.returncode != 0:
        said = result.stderr.strip() or "it said nothing"
        raise VirtualBoardFailed(f"{folder.name}: its emulator did not start: {said}")
    return record_process(lab, folder)


def record_process(lab: Lab, folder: BoardFolder) -> BoardState:
    """Write down which process the board's emulator is now."""
    found = running(lab, folder)
    return folder.write(msgspec.structs.replace(recorded(folder), process=found))


def stop(lab: Lab, folder: BoardFolder, target: SshTarget | None) -> None:
    """Switch a board off: what it has written is synced, where it still answers.

    `target` is how to log in; None cuts its power without asking. Raises VirtualBoardFailed
    where the emulator cannot be ended.
    """
    found = running(lab, folder)
    if found is not None and target is not None and not process.is_frozen(found):
        _quit(folder, found, target)
    if found is not None:
        process.send(found, signal.SIGKILL)
        process.wait_end(found, QUIT_TIMEOUT_S)
    if not process.kill_all(lab.root, process.board_role(folder.name), QUIT_TIMEOUT_S):
        raise VirtualBoardFailed(f"{folder.name}: its emulator does not end")
    state = folder.read()
    if state is not None:
        folder.write(msgspec.structs.replace(state, process=None))
    for leftover in (folder.monitor, folder.console):
        leftover.unlink(missing_ok=True)


def wait_until_up(lab: Lab, folder: BoardFolder, target: SshTarget, timeout_s: float) -> None:
    """Wait until a login succeeds.

    Raises VirtualBoardFailed with the console's last words at the deadline, or when the emulator
    ends before.
    """
    deadline = time.monotonic() + timeout_s
    said = ""
    while time.monotonic() < deadline:
        if running(lab, folder) is None:
            raise VirtualBoardFailed(
                f"{folder.name}: its emulator ended while it started:\n{console_tail(folder)}"
            )
        if is_listening(recorded(folder).port):
            result = _login(target, "true", _LOGIN_TIMEOUT_S)
            if result.returncode == 0:
                return
            said = f"; ssh: {result.stderr.strip()}"
        time.sleep(_POLL_S)
    raise VirtualBoardFailed(
        f"{folder.name}: no login within {timeout_s:.0f} s{said}; its console's last words "
        f"(`orchestrator lab console {folder.name}`):\n{console_tail(folder)}"
    )


def is_listening(port: int, timeout_s: float = _PROBE_TIMEOUT_S) -> bool:
    """Whether an sshd introduces itself on a port of 127.0.0.1: the emulator alone accepts too."""
    try:
        with socket.create_connection((LOOPBACK, port), timeout_s) as sock:
            sock.settimeout(timeout_s)
            return sock.recv(4) == b"SSH-"
    except OSError:
        return False


def console_tail(folder: BoardFolder) -> str:
    """The last lines that the board's console has said."""
    try:
        lines = folder.console_log.read_text(errors="replace").splitlines()
    except OSError:
        lines = []
    return "\n".join(f"  {line}" for line in lines[-_CONSOLE_LINES:]) or "  (nothing)"


def free_port() -> int:
    """A port of 127.0.0.1 that nothing listens on now."""
    with socket.socket() as probe:
        probe.bind((LOOPBACK, 0))
        return int(probe.getsockname()[1])


def _login(target: SshTarget, command: str, timeout_s: float) -> subprocess.CompletedProcess[str]:
    """Run a command on the board; a timeout is a failure like any other."""
    argv = target.argv(command)
    try:
        return subprocess.run(
            argv, stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="replace",
            timeout=timeout_s, check=False,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        return subprocess.CompletedProcess(argv, 255, "", f"no answer in {timeout_s:.0f} s")


def _quit(folder: BoardFolder, found: ProcessId, target: SshTarget) -> None:
    """Sync the board's disk and ask its emulator to end; in vain where it does not answer."""
    _login(target, "sync", SYNC_TIMEOUT_S)
    with contextlib.suppress(VirtualBoardFailed):
        monitor.command(folder.monitor, "quit")
        process.wait_end(found, QUIT_TIMEOUT_S)


def _run(words: Sequence[str], lab: Lab, folder: BoardFolder) -> subprocess.CompletedProcess[str]:
    """Run one of the emulator's programs in the board's folder, with the board's mark."""
    try:
        return subprocess.run(
            words, cwd=folder.path, stdin=subprocess.DEVNULL, capture_output=True, text=True,
            errors="replace", timeout=START_TIMEOUT_S, check=False, start_new_session=True,
            env=process.environment(lab.root, process.board_role(folder.name)),
        )  # fmt: skip
    except subprocess.TimeoutExpired as exc:
        raise VirtualBoardFailed(
            f"{folder.name}: its emulator did not start within {START_TIMEOUT_S:.0f} s"
        ) from exc


def dropping() -> tuple[int, int] | None:
    """The emulator's version where we are root, whose privileges it then drops; else None."""
    return _emulator_version() if os.geteuid() == 0 else None


@functools.cache
def _emulator_version() -> tuple[int, int]:
    result = subprocess.run(
        [qemu.EMULATOR, "--version"], capture_output=True, text=True, timeout=START_TIMEOUT_S,
        check=False,
    )  # fmt: skip
    return qemu.version_of(result.stdout)
