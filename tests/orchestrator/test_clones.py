from __future__ import annotations

from orchestrator.clones import Identity, keys_of, warnings

KEY = frozenset({"ssh-ed25519 AAAA"})


def test_different_boards() -> None:
    """Boards that share nothing, or do not say, give no warning."""
    boards = [
        Identity("a", "1", "pi-a", "m1", frozenset({"ssh-ed25519 A"})),
        Identity("b", "2", "pi-b", "m2", frozenset({"ssh-ed25519 B"})),
        Identity("c"),
        Identity("d"),
    ]
    assert warnings(boards) == []


def test_one_board_under_two_names() -> None:
    """Two names with one serial number are one board."""
    (told,) = warnings([Identity("a", "77", "pi", "m", KEY), Identity("b", "77", "pi", "m", KEY)])
    assert "a and b are one board (serial number 77)" in told


def test_cloned_cards() -> None:
    """Boards with their own serial numbers but one card's identity are clones, with the cure."""
    (told,) = warnings([Identity("a", "1", "pi", "m", KEY), Identity("b", "2", "pi", "m", KEY)])
    assert "two boards with cards copied from one" in told
    assert "the host key and the machine id and the host name" in told
    assert "systemd-machine-id-setup" in told
    assert "hostnamectl set-hostname b" in told
    assert "orchestrator boards trust b" in told


def test_same_key_without_serial() -> None:
    """Where no serial number tells, one host key is reported as either case."""
    (told,) = warnings([Identity("a", host_keys=KEY), Identity("b", host_keys=KEY)])
    assert "one board under two names, or their cards are copies" in told


def test_same_host_name_alone() -> None:
    """One host name is a nuisance where the serial numbers differ, and else says nothing."""
    (told,) = warnings([Identity("a", "1", "pi"), Identity("b", "2", "pi")])
    assert "share the host name" in told
    assert "trust" not in told
    assert warnings([Identity("a", "", "pi"), Identity("b", "", "pi")]) == []


def test_each_pair_once() -> None:
    """Three clones are three pairs, each told once."""
    boards = [Identity(name, serial, host_keys=KEY) for name, serial in ("a1", "b2", "c3")]
    assert len(warnings(boards)) == 3


def test_keys_of_recorded_lines() -> None:
    """The name that a key is recorded under is no part of it."""
    assert keys_of(["pi5 ssh-ed25519 AAAA", "pi3 ssh-ed25519 AAAA", "broken"]) == KEY
