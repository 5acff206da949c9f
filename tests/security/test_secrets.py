"""Secrets of a user's ssh and of a database: in no file, no row, no event and on no screen.

The password that `trust --copy-key` asks for is looked for in tests/orchestrator/test_keycopy.py.
"""

from __future__ import annotations

import contextlib
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.cli import Desk, desk
from support.fakewheels import make_wheels
from support.onnxmodels import tiny_model
from support.sshd import Sshd

from orchestrator.provision.lock import shipped_pins
from results.errors import ResultsError
from results.store import Store

pytestmark = pytest.mark.ssh

SECRET = "tok3n-of-the-proxy"  # noqa: S105 - it is looked for where it must not be

RELAY = """
import socket, sys, threading
def pump(read, write, end):
    while data := read(65536): write(data)
    end()
sock = socket.create_connection(("127.0.0.1", int(sys.argv[2])))
def put(data): sys.stdout.buffer.write(data); sys.stdout.buffer.flush()
def hung_up(): sock.shutdown(socket.SHUT_WR)
threading.Thread(target=pump, args=(sys.stdin.buffer.read1, sock.sendall, hung_up)).start()
pump(sock.recv, put, lambda: None)
"""
"""A proxy as users have them, with a secret on its command line."""


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory, sshd: Sshd) -> Iterator[Desk]:
    """A workspace whose two boards are behind a proxy with a secret; one of them is dead."""
    root = tmp_path_factory.mktemp("secrets")
    tiny_model(root / "tiny.onnx")
    outside = tmp_path_factory.mktemp("users-own")
    (outside / "relay.py").write_text(RELAY)
    proxy = f"{sys.executable} {outside}/relay.py --token={SECRET}"
    (outside / "config").write_text(
        f"# password of the proxy: {SECRET}\n"
        f"Host alive\n  User {sshd.user}\n  SetEnv TOKEN={SECRET}\n"
        f"  ProxyCommand {proxy} {sshd.port}\n"
        f"Host dead\n  ProxyCommand {proxy} 1\n"
        f"{sshd.ssh_config.read_text()}"
    )
    with desk(root) as made:
        (root / "inventory.yaml").write_text(
            f"ssh_config: {outside}/config\nboards:\n"
            f"  alive:\n    ssh_alias: alive\n    python: {sys.executable}\n"
            f"    home: {root}/home-alive\n    lock: {root}/alive.lock\n"
            f"  dead:\n    ssh_alias: dead\n    home: {root}/home-dead\n"
            f"  bare:\n    ssh_alias: alive\n    home: {root}/home-bare\n"
            f"    lock: {root}/bare.lock\n"
        )
        known = root / ".orchestrator" / "known_hosts"
        known.parent.mkdir()
        lines = [sshd.known_hosts_line(name) for name in ("alive", "dead", "bare")]
        known.write_text("".join(lines))
        yield made


def nothing_of(secret: str, made: Desk, done: subprocess.CompletedProcess[str]) -> None:
    """Fail where a secret is in what a command left or said."""
    assert secret not in done.stdout + done.stderr
    for path in made.root.rglob("*"):
        if path.is_file():
            assert secret.encode() not in path.read_bytes(), path
    if made.database.exists():
        with contextlib.closing(sqlite3.connect(made.database)) as database:
            assert secret not in "\n".join(database.iterdump())


@pytest.mark.slow
def test_a_run_keeps_nothing_of_the_ssh_configuration(lab: Desk) -> None:
    """A run over a proxy with a secret stores and says nothing of it, with a dead board too."""
    done = lab.run(
        *("--debug", "run", "--model", "tiny.onnx", "--boards", "alive,dead"),
        *("--profile", "smoke", "--seed", "1"),
    )
    assert lab.rows("SELECT state FROM trials") == [{"state": "finished"}], done.stderr
    assert done.returncode != 0
    assert "dead" in done.stderr + done.stdout
    nothing_of(SECRET, lab, done)
    shown = lab.run("query", "SELECT * FROM runs", "--json")
    nothing_of(SECRET, lab, shown)


@pytest.mark.slow
def test_other_commands_keep_nothing_of_it(lab: Desk, tmp_path: Path) -> None:
    """Neither check, nor list, nor provision says or keeps what the ssh configuration has."""
    wheels = make_wheels(tmp_path / "wheels", shipped_pins())
    for words in (
        ("boards", "check", "alive", "dead"),
        ("boards", "list"),
        ("boards", "provision", "bare", "--wheels", str(wheels)),
        ("boards", "provision", "dead", "--wheels", str(wheels)),
    ):
        done = lab.run("--debug", *words)
        assert "alive" in done.stdout or "bare" in done.stdout or "dead" in done.stderr
        nothing_of(SECRET, lab, done)
    assert (lab.root / "home-bare" / "env" / "current").is_symlink()


def test_the_password_of_a_database_is_not_shown() -> None:
    """An error about a database names its address without the password."""
    url = f"postgresql+psycopg://me:{SECRET}@127.0.0.1:1/results?connect_timeout=2"
    with pytest.raises(ResultsError) as refused:
        Store.open(url, create=True)
    assert "127.0.0.1" in str(refused.value)
    assert SECRET not in str(refused.value)
