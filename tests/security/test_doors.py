"""Doors: which ports are open during a run, and what another account of the machine can reach."""

from __future__ import annotations

import contextlib
import os
import shutil
import sqlite3
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from support.agentkit import agent_process
from support.boards import ssh_rig
from support.cli import Desk, desk
from support.fakewheels import make_wheels
from support.onnxmodels import tiny_model
from support.sshd import Sshd

from orchestrator.provision.lock import shipped_pins

SECRET = "hunter2-correct-horse"  # noqa: S105 - it is looked for where it must not be
SETPRIV = shutil.which("setpriv")
NOBODY = 65534
as_another_account = pytest.mark.skipif(
    os.geteuid() != 0 or SETPRIV is None,
    reason="only root can act as another account (run as root, with setpriv of util-linux)",
)


def listening(processes: list[psutil.Process]) -> set[tuple[str, int]]:
    """TCP and UDP addresses at which these processes can be reached from elsewhere."""
    found = set()
    for process in processes:
        with contextlib.suppress(psutil.Error):
            for connection in process.net_connections("inet"):
                if connection.status in (psutil.CONN_LISTEN, psutil.CONN_NONE):
                    found.add((process.name(), connection.laddr.port))
    return found


class Watch:
    """Looks at processes again and again while a block runs; `ports` is what was open."""

    def __init__(self, every: Desk) -> None:
        self.ports: set[tuple[str, int]] = set()
        self.seen: set[str] = set()
        self._desk = every
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._look)

    def __enter__(self) -> Watch:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def _look(self) -> None:
        while not self._over.wait(0.1):
            processes = self._desk.processes()
            for started in self._desk.started:
                with contextlib.suppress(psutil.Error):
                    host = psutil.Process(started.pid)
                    processes += [host, *host.children(recursive=True)]
            self.ports |= listening(processes)
            for process in processes:
                with contextlib.suppress(psutil.Error):
                    self.seen |= {word for word in process.cmdline() if word.isalpha()}


@pytest.fixture(scope="module")
def night(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Desk, Watch, str]]:
    """A real run on this machine, watched, with a secret in its environment."""
    root = tmp_path_factory.mktemp("run")
    tiny_model(root / "tiny.onnx")
    with pytest.MonkeyPatch.context() as patched, desk(root) as made:
        for name in ("SSH_PASSWORD", "BOARD_TOKEN", "AWS_SECRET_ACCESS_KEY"):
            patched.setenv(name, SECRET)
        with Watch(made) as watch:
            done = made.run(
                "--debug", "run", "--model", "tiny.onnx", "--boards", "here", "--profile", "smoke"
            )
        assert done.returncode == 0, done.stderr
        yield made, watch, done.stdout + done.stderr


@pytest.mark.slow
def test_a_run_opens_no_port(night: tuple[Desk, Watch, str]) -> None:
    """From the first process of a local run to its last, none listens on TCP or UDP."""
    _, watch, _ = night
    assert {"serve", "dial", "worker", "run"} <= watch.seen  # it looked at all of them
    assert watch.ports == set()


@pytest.mark.slow
def test_no_secret_is_kept(night: tuple[Desk, Watch, str]) -> None:
    """What lies in the environment is in no file of a run, in no row and on no screen."""
    made, _, said = night
    assert SECRET not in said
    files = [path for path in made.root.rglob("*") if path.is_file()]
    assert {"results.sqlite", "log.txt", "inventory.yaml"} <= {path.name for path in files}
    assert [path for path in files if SECRET.encode() in path.read_bytes()] == []
    with contextlib.closing(sqlite3.connect(made.database)) as database:
        assert SECRET not in "\n".join(database.iterdump())


@pytest.mark.ssh
@pytest.mark.slow
def test_an_ssh_board_opens_no_port(tmp_path: Path, sshd: Sshd) -> None:
    """Installing and serving an agent over ssh opens no port, on either side."""
    with ssh_rig(tmp_path, sshd) as rig:
        session = rig.board.connect()
        agent = psutil.Process(session.hello("test").pid)
        mine = psutil.Process()
        dialling = [child for child in mine.children() if child.name() == "ssh"]
        assert dialling
        assert listening([agent, *agent.children(recursive=True), mine, *dialling]) == set()
        session.close()


@pytest.mark.ssh
@pytest.mark.slow
def test_provisioning_opens_no_port(tmp_path: Path, sshd: Sshd) -> None:
    """From its first process to its last, `boards provision` listens nowhere, on either side."""
    wheels = make_wheels(tmp_path / "wheels", shipped_pins())
    root = tmp_path / "desk"
    (root / ".orchestrator").mkdir(parents=True)
    (root / ".orchestrator" / "known_hosts").write_text(sshd.known_hosts_line("loop"))
    with desk(root) as made:
        (root / "inventory.yaml").write_text(
            f"ssh_config: {sshd.ssh_config}\nboards:\n  loop:\n    ssh_alias: loop\n"
            f"    home: {root}/home\n    lock: {root}/board.lock\n"
        )
        with Watch(made) as watch:
            done = made.run("boards", "provision", "loop", "--wheels", str(wheels))
        assert done.returncode == 0, done.stderr
        assert (root / "home" / "env" / "current").is_symlink()
        assert {"boards", "provision", "loop"} <= watch.seen
        assert watch.ports == set()


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """A folder that every account can look into, unlike pytest's own."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        folder.chmod(0o755)
        yield folder


@as_another_account
def test_another_account_gets_nothing(open_folder: Path) -> None:
    """Another account can neither list the agent's directory, read its files nor reach it."""
    with agent_process(open_folder) as process:
        process.talk().close()
        home = process.home
        (home.artifacts / ("a" * 64)).write_bytes(b"a model")
        attack = (
            "import os, socket, sys\n"
            "home, sock, *files = sys.argv[1:]\n"
            "def attempt(act):\n"
            "    try: act()\n"
            "    except PermissionError: return\n"
            "    sys.exit('reached')\n"
            "os.listdir(os.path.dirname(home))\n"  # so far anybody comes
            "attempt(lambda: os.listdir(home))\n"
            "for file in files: attempt(lambda: open(file, 'rb'))\n"
            "attempt(lambda: socket.socket(socket.AF_UNIX).connect(sock))\n"
            "attempt(lambda: open(home + '/mine', 'w'))\n"
            "print('refused')\n"
        )
        files = [home.log, home.lock, home.artifacts / ("a" * 64)]
        assert SETPRIV is not None
        python = next(p for p in ("/usr/bin/python3", sys.executable) if Path(p).exists())
        done = subprocess.run(
            [
                *(SETPRIV, f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups"),
                *(python, "-I", "-c", attack, str(home.root), str(home.socket), *map(str, files)),
            ],
            capture_output=True, text=True, timeout=30, check=False, cwd="/",
        )  # fmt: skip
        assert (done.stdout.strip(), done.returncode) == ("refused", 0), done.stderr


@pytest.mark.slow
def test_the_agents_files_of_a_run_are_private(night: tuple[Desk, Watch, str]) -> None:
    """After a run the agent's directory is closed, and no file in it can be written by others."""
    made, _, _ = night
    home = made.root / "home-here"
    assert home.stat().st_mode & 0o077 == 0
    assert [p for p in home.rglob("*") if p.lstat().st_mode & 0o022] == []
