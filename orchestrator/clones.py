"""Boards that are one, and cards that are copies of one: told apart by the serial number."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Identity:
    """What tells a board from others; '' where it does not say.

    `host_keys` are the keys recorded for it, without a name. The serial number is the
    processor's; all the rest lies on the card and is copied with it.
    """

    board: str
    serial: str = ""
    hostname: str = ""
    machine_id: str = ""
    host_keys: frozenset[str] = frozenset()


def warnings(identities: Sequence[Identity]) -> list[str]:
    """What is odd about boards seen together, in words, with what to type."""
    return list(_warnings(identities))


def _warnings(identities: Sequence[Identity]) -> Iterator[str]:
    for one, other in itertools.combinations(identities, 2):
        both = f"{one.board} and {other.board}"
        if one.serial and one.serial == other.serial:
            yield (
                f"{both} are one board (serial number {one.serial}) under two names; measure on "
                f"one of them, or correct an address in the inventory"
            )
            continue
        copied = list(_copied(one, other))
        if not copied:
            continue
        if one.serial and other.serial:
            yield (
                f"{both} are two boards with cards copied from one: they share the "
                f"{_listed(copied)}; {_repair(other.board, copied)}"
            )
        elif copied != ["host name"]:
            yield (
                f"{both} share the {_listed(copied)}, and no serial number tells them apart: they "
                f"are one board under two names, or their cards are copies of one; if they are "
                f"two, {_repair(other.board, copied)}"
            )


def _copied(one: Identity, other: Identity) -> Iterator[str]:
    if one.host_keys & other.host_keys:
        yield "host key"
    if one.machine_id and one.machine_id == other.machine_id:
        yield "machine id"
    if one.hostname and one.hostname == other.hostname:
        yield "host name"


def _repair(board: str, copied: Sequence[str]) -> str:
    commands = {
        "host key": "sudo rm /etc/ssh/ssh_host_*_key* && sudo dpkg-reconfigure openssh-server",
        "machine id": "sudo rm -f /etc/machine-id /var/lib/dbus/machine-id && "
        "sudo systemd-machine-id-setup",
        "host name": f"sudo hostnamectl set-hostname {board}",
    }
    typed = "; ".join(f"`{commands[what]}`" for what in copied)
    then = f", then here `orchestrator boards trust {board}`" if "host key" in copied else ""
    return f"type on {board}: {typed}{then}"


def _listed(words: Sequence[str]) -> str:
    return " and the ".join(words)


def keys_of(lines: Iterable[str]) -> frozenset[str]:
    """The keys of known_hosts lines, without the names that they are recorded under."""
    return frozenset(line.split(" ", 1)[1].strip() for line in lines if " " in line)
