"""The lab's commands, without a screen: up, down, remove, status. One of them at a time."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, Literal

import msgspec

from orchestrator import inventory as inventories
from orchestrator import trust
from orchestrator.boards.sshcommand import SshTarget
from orchestrator.errors import unknown_name
from orchestrator.lab import build, hosttools, image, keys, listing, machine, process
from orchestrator.lab.errors import LabError, VirtualBoardFailed
from orchestrator.lab.kinds import kind_of
from orchestrator.lab.layout import BoardFolder, BoardState, Lab, half_made_path, locked
from orchestrator.workspace import Workspace

Condition = Literal["up", "no answer", "frozen", "off"]
Log = Callable[[str], None]
"""Told one line at a time what is going on."""

_END_TIMEOUT_S: Final = 10.0


@dataclass(frozen=True)
class Status:
    """A virtual board as it is now; 'no answer' while it starts, or is cut off."""

    name: str
    condition: Condition
    core: str
    port: int
    pid: int | None
    bare: bool


def up(place: Workspace, names: Sequence[str], *, bare: bool | None, log: Log) -> None:
    """Build what is missing, start the boards, list them, and wait until they can be used.

    `bare` leaves the agent's packages out; None keeps what a board has, and a new one gets them.
    Raises LabError and its subclasses, UnknownName, InventoryError.
    """
    lab = Lab(place.lab)
    names = tuple(dict.fromkeys(names))
    for name in names:
        kind_of(name)
    _refuse_taken(place, names)
    hosttools.require()
    with locked(lab, log):
        _sweep(lab)
        keys.make_login(lab)
        base = image.ensure_image(lab, log)
        try:
            for name in names:
                _switch_on(place, lab.board(name), base.digest, bare=bare, log=log)
        finally:
            listing.write(lab)
            _drop_unused_images(lab)
    _await(place, names, log)


def down(place: Workspace, names: Sequence[str], log: Log) -> None:
    """Switch boards off, all of them where none is named; their disks stay."""
    lab = Lab(place.lab)
    with locked(lab, log):
        _sweep(lab)
        for folder in _named(lab, names):
            was_on = machine.running(lab, folder) is not None
            state = folder.read()
            machine.stop(lab, folder, None if state is None else target_of(place, state))
            log(f"{folder.name} is off" if was_on else f"{folder.name} was off")


def remove(place: Workspace, names: Sequence[str], log: Log) -> None:
    """Delete boards with their disks; where none is named, all that the lab has ever made."""
    lab = Lab(place.lab)
    with locked(lab, log):
        _sweep(lab)
        gone = _named(lab, names)
        for folder in gone:
            machine.stop(lab, folder, None)
            shutil.rmtree(folder.path)
        trust.forget(place.known_hosts, [folder.name for folder in gone])
        if names:
            listing.write(lab)
            _drop_unused_images(lab)
        else:
            shutil.rmtree(lab.root)
    for folder in gone:
        log(f"{folder.name} is removed")


def status(place: Workspace) -> tuple[Status, ...]:
    """Every board that was made, by name; nothing is changed."""
    lab = Lab(place.lab)
    states = [(folder, folder.read()) for folder in lab.boards()]
    return tuple(_status(lab, folder, state) for folder, state in states if state is not None)


def board(place: Workspace, name: str) -> BoardFolder:
    """The folder of one board; raises UnknownName."""
    (found,) = _named(Lab(place.lab), [name])
    return found


def target_of(place: Workspace, state: BoardState) -> SshTarget:
    """How ssh reaches a board of the lab."""
    return SshTarget(
        name=state.name,
        address=machine.LOOPBACK,
        known_hosts=place.known_hosts,
        user=keys.USER,
        port=state.port,
        ssh_config=Lab(place.lab).ssh_config,
    )


def _refuse_taken(place: Workspace, names: Sequence[str]) -> None:
    own = inventories.load_own(place.inventory).boards
    for name in names:
        if name in own:
            raise LabError(
                f"{place.inventory} has a board called '{name}' already; rename that one, or take "
                f"another name here, such as {name}-2"
            )


def _sweep(lab: Lab) -> None:
    """Tidy up after a command that was killed: build processes, half-made folders, lost boards."""
    build.end_builders(lab.root)
    kept = {process.board_role(folder.name) for folder in lab.boards()}
    for role in set(process.marked(lab.root).values()) - kept:
        process.kill_all(lab.root, role, _END_TIMEOUT_S)
    for path in lab.half_made():
        shutil.rmtree(path, ignore_errors=True)


def _switch_on(
    place: Workspace, folder: BoardFolder, base: str, *, bare: bool | None, log: Log
) -> None:
    """Make the board if it is new, and start it if it is off."""
    lab = Lab(place.lab)
    state = folder.read()
    if state is not None and machine.running(lab, folder) is not None:
        if bare is not None and bare != (state.packages is None):
            raise LabError(
                f"{folder.name} is up {'with' if bare else 'without'} the agent's packages; "
                f"`orchestrator lab down {folder.name}` first"
            )
        machine.record_process(lab, folder)
        return
    without = state.packages is None if bare is None and state is not None else bool(bare)
    packages = None if without else image.ensure_packages(lab, log)
    if state is None:
        _make(lab, folder, base, packages)
    elif state.image != base:
        log(f"{folder.name} starts afresh: its disk was made from an image that is out of date")
        machine.make_disk(lab, folder, base)
    fresh = machine.recorded(folder)
    folder.write(msgspec.structs.replace(fresh, image=base, packages=packages))
    keys.make_seed(lab, folder)
    state = machine.recorded(folder)
    trust.record(target_of(place, state), trust.HostKey(keys.known_hosts_line(folder), ""))
    log(f"starting {folder.name} ({kind_of(folder.name).cpu})")
    machine.start(lab, folder)


def _make(lab: Lab, folder: BoardFolder, base: str, packages: str | None) -> None:
    """A new board's folder, complete before it has its name."""
    new = BoardFolder(half_made_path(folder.path))
    new.path.mkdir(mode=0o700, parents=True)
    keys.make_key(new.host_key, folder.name)
    machine.make_disk(lab, new, base)
    new.write(BoardState(name=folder.name, image=base, packages=packages, port=machine.free_port()))
    shutil.rmtree(folder.path, ignore_errors=True)  # one whose state could not be read
    new.path.rename(folder.path)


def _await(place: Workspace, names: Sequence[str], log: Log) -> None:
    """Wait for all of them, which boot at the same time; the failures are told together."""
    lab, failures = Lab(place.lab), []
    for name in names:
        folder = lab.board(name)
        try:
            state = machine.recorded(folder)
            machine.wait_until_up(lab, folder, target_of(place, state), machine.BOOT_TIMEOUT_S)
        except VirtualBoardFailed as exc:
            failures.append(str(exc))
        else:
            log(f"{name} is up")
    if failures:
        raise VirtualBoardFailed("\n".join(failures))


def _named(lab: Lab, names: Sequence[str]) -> tuple[BoardFolder, ...]:
    """The boards of these names, or all; raises UnknownName."""
    known = {folder.name: folder for folder in lab.boards()}
    for name in names:
        if name not in known:
            raise unknown_name("virtual board", name, known)
    return tuple(known[name] for name in dict.fromkeys(names)) if names else lab.boards()


def _drop_unused_images(lab: Lab) -> None:
    """Delete what no board needs and this version would not use."""
    needed = {image.image_digest(), image.packages_digest()}
    for folder in lab.boards():
        state = folder.read()
        if state is not None:
            needed |= {state.image, state.packages or state.image}
    for path in lab.images.glob("*"):
        if path.name not in needed:
            shutil.rmtree(path, ignore_errors=True)


def _status(lab: Lab, folder: BoardFolder, state: BoardState) -> Status:
    found = machine.running(lab, folder)
    condition: Condition = "off"
    if found is not None and process.is_frozen(found):
        condition = "frozen"
    elif found is not None:
        condition = "up" if machine.is_listening(state.port) else "no answer"
    return Status(
        name=state.name,
        condition=condition,
        core=kind_of(state.name).cpu,
        port=state.port,
        pid=None if found is None else found.pid,
        bare=state.packages is None,
    )
