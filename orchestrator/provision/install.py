"""One board, from its survey to an environment in use; whatever is there already is left."""

from __future__ import annotations

import shlex
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from orchestrator.boards.shell import Shell
from orchestrator.boards.welcome import probe_report
from orchestrator.deploy import Bundle
from orchestrator.errors import BoardDiskFull, BoardUnfit, TransferFailed
from orchestrator.provision import daemon, environment, optional, service
from orchestrator.provision.environment import Environment, Found
from orchestrator.provision.larder import Larder, Say
from orchestrator.provision.lock import Extra
from orchestrator.provision.service import Service
from orchestrator.provision.survey import Survey, target_of

if TYPE_CHECKING:
    from orchestrator.boards.remote import Remote

PROBE_TIMEOUT_S: Final = 540.0
"""Six imports on a slow card, each compiled for the first time; the probe ends each after 240 s."""

SAY_EVERY_S: Final = 10.0
_MEBIBYTE: Final = 1 << 20


@dataclass(frozen=True)
class Wish:
    """What a board is to get; `extra` are the agent's own options from the inventory."""

    board: str
    as_service: bool = False
    extra: tuple[str, ...] = ()
    runtimes: tuple[Extra, ...] | None = None
    """Beside onnxruntime; None keeps those that the board has."""


def bring(remote: Remote, wish: Wish, survey: Survey, larder: Larder, say: Say) -> None:
    """Make the board one that measures.

    Raises BoardUnfit, WheelsMissing, BoardDiskFull, TransferFailed; BoardUnreachable when the
    connection breaks, after which another call goes on where this one ended.
    """
    target, python = target_of(survey, wish.board)
    bundle = Bundle.of_this_version()
    runtimes = wish.runtimes
    if runtimes is None:
        runtimes = optional.present(remote, survey.home)
    optional.consider(survey, target, runtimes, wish.board, say)
    wanted = Environment(survey.home, larder.tree(target, say, runtimes), target, python)
    found = environment.look(remote, wanted, bundle.directory_name)
    remote.install(bundle, survey.home)
    complete = found.present and _still_works(remote, wish, wanted, bundle, say)
    if not complete:
        _put(remote, wish, survey, wanted, bundle, say)
    if found.current != wanted.id:
        environment.switch(remote, wish.board, wanted)
    unchanged = complete and found.bundle and found.current == wanted.id
    place = f"{survey.home}/env/{wanted.id}"
    if complete and found.current == wanted.id and not found.bundle:
        say(f"{place} is complete and in use; only the agent's own files were renewed")
    elif unchanged:
        say(f"nothing to do: {place} is complete and in use; nothing was moved")
    else:
        say(f"ready: {place} around {python.path} ({python})")
    _hand_over(remote, wish, survey, _service(wish, wanted, bundle), found.others, unchanged, say)


def _put(
    remote: Remote, wish: Wish, survey: Survey, wanted: Environment, bundle: Bundle, say: Say
) -> None:
    """Push and unpack the environment and see that it works; what does not is taken away."""
    found = environment.look(remote, wanted, bundle.directory_name)
    _check_room(survey, wanted, found, wish.board)
    _deliver(remote, wish.board, wanted, found, say)
    say("trying each package there, compiled as it is imported for the first time")
    problem = probe(remote, wish.board, wanted, bundle)
    if problem is not None:
        environment.discard(remote, wish.board, survey.home, (f"env/{wanted.id}",))
        raise problem


def _still_works(remote: Remote, wish: Wish, wanted: Environment, bundle: Bundle, say: Say) -> bool:
    """Whether what is there can be kept; it is removed when it cannot."""
    problem = probe(remote, wish.board, wanted, bundle)
    if problem is not None:
        say(f"what is there is damaged and is replaced: {problem}")
        environment.discard(remote, wish.board, wanted.home, (f"env/{wanted.id}",))
    return problem is None


def _check_room(survey: Survey, wanted: Environment, found: Found, board: str) -> None:
    needed = environment.needed_bytes(wanted, found)
    if survey.free_bytes is not None and survey.free_bytes < needed:
        raise BoardDiskFull(
            f"{survey.free_bytes // _MEBIBYTE} MiB are free where {survey.home} lies, and "
            f"{-(-needed // _MEBIBYTE)} MiB are needed; free some space (`sudo apt clean`, "
            f"`du -xh ~ | sort -h | tail`), or set `home:` in the inventory to another disk",
            board,
        )


def _deliver(shell: Shell, board: str, wanted: Environment, found: Found, say: Say) -> None:
    """Push what has not arrived and unpack it; an archive damaged on its way is sent again."""
    total = wanted.tree.size_bytes
    start = found.partial_bytes if found.partial_bytes <= total else 0
    for _ in range(2):
        size = f"{total / _MEBIBYTE:.1f} MiB"
        begun = f", {start / _MEBIBYTE:.1f} of them are there already" if start else ""
        say(f"pushing {size}{begun}")
        if start < total:
            environment.push(shell, board, wanted, start, _every(SAY_EVERY_S, total, say))
        say("unpacking (a minute or two on a slow card)")
        if environment.unpack(shell, board, wanted):
            return
        say("it arrived damaged and is sent again")
        start = 0
    raise TransferFailed("the packages arrived damaged twice; check the board's card", board)


def _every(period_s: float, total: int, say: Say) -> Callable[[int], None]:
    """Say how much was sent, but not too often."""
    last_s = time.monotonic()

    def progress(sent: int) -> None:
        nonlocal last_s
        if time.monotonic() - last_s >= period_s:
            last_s = time.monotonic()
            say(f"pushed {sent / _MEBIBYTE:.1f} of {total / _MEBIBYTE:.1f} MiB")

    return progress


def probe(shell: Shell, board: str, wanted: Environment, bundle: Bundle) -> BoardUnfit | None:
    """Import every package on the board, native ones in a process of their own; what fails."""
    directory = f"{wanted.home}/bundles/{bundle.directory_name}"
    command = shlex.join([wanted.python_path, "-I", directory, "probe"])
    result = shell.run(f"exec {command}", PROBE_TIMEOUT_S)
    report = probe_report(result.stdout)
    if report is None:
        said = result.stderr.strip() or f"exit code {result.exit_code}"
        return BoardUnfit(
            f"the packages cannot be tried there ({said}); `orchestrator boards remove {board}`, "
            f"then provision again, makes all of it new",
            board,
        )
    missing = report.get("missing")
    if not isinstance(missing, dict) or not missing:
        return None
    listed = "; ".join(f"{name}: {why}" for name, why in missing.items())
    return BoardUnfit(f"the packages do not work there: {listed}", board)


def _service(wish: Wish, wanted: Environment, bundle: Bundle) -> Service:
    directory = f"{wanted.home}/bundles/{bundle.directory_name}"
    return Service(wanted.home, wanted.python_path, directory, wish.extra)


def _hand_over(
    shell: Shell, wish: Wish, survey: Survey, unit: Service, others: tuple[str, ...],
    unchanged: bool, say: Say,
) -> None:  # fmt: skip
    """Let the running agent make room, remove old versions, and see to the unit."""
    wants_unit = wish.as_service or service.installed(shell, unit.home)
    reason = service.unavailable(survey, wish.board) if wants_unit else None
    if reason is not None:
        say(reason)
    wants_unit = wants_unit and reason is None
    if unchanged and not others and not (wants_unit and not service.in_use(shell, unit)):
        return
    if daemon.stop(shell, unit.home) == "busy":
        say(
            "a run is using the board: its agent goes on with the version that it has; type "
            f"`orchestrator boards provision {wish.board}` again when the run has ended"
        )
        return
    if others:
        environment.discard(shell, wish.board, unit.home, others)
        say(f"removed older versions: {', '.join(others)}")
    if wants_unit:
        say(f"the agent runs as the user unit {service.install(shell, wish.board, unit)}")
        note = service.linger_note(survey)
        if note is not None:
            say(note)
