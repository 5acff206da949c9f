"""A board behind a real sshd: from nothing to an agent that answers, and what can be wrong."""

from __future__ import annotations

import dataclasses
import json
import os
import socket
import subprocess
import sys
import venv
from collections.abc import Callable
from pathlib import Path

import pytest
from support.boards import agent_options, ended, ssh_target
from support.sshd import Sshd, free_port

from orchestrator.boards.ssh import SshBoard, _read_probe
from orchestrator.boards.sshcommand import SshTarget
from orchestrator.deploy import Bundle
from orchestrator.errors import (
    AgentDied,
    BoardUnreachable,
    HostKeyRejected,
    PackagesMissing,
)


@pytest.fixture
def target(sshd: Sshd, tmp_path: Path) -> SshTarget:
    return ssh_target(sshd, tmp_path)


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return tmp_path / "home"


@pytest.fixture
def make(target: SshTarget, home: Path, tmp_path: Path) -> Callable[..., SshBoard]:
    """A board at the test's sshd, with this interpreter unless a test says otherwise."""

    def made(python: str = sys.executable, **changes: object) -> SshBoard:
        where = dataclasses.replace(target, **changes)  # type: ignore[arg-type]
        return SshBoard(where, home=str(home), python=python, extra=agent_options(tmp_path))

    return made


@pytest.fixture
def deployments(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the boards that were deployed to, in order."""
    found: list[str] = []
    plain = SshBoard._deploy

    def counted(board: SshBoard, bundle: Bundle) -> None:
        found.append(board.name)
        plain(board, bundle)

    monkeypatch.setattr(SshBoard, "_deploy", counted)
    return found


# ---------------------------------------------------------------- it works


@pytest.mark.ssh
@pytest.mark.slow
def test_from_nothing(make: Callable[..., SshBoard], home: Path, deployments: list[str]) -> None:
    """The first contact puts the agent on the board and starts it; the second finds it running."""
    board = make()
    with ended(board):
        session = board.connect()
        hello = session.hello(socket.gethostname())
        session.close()
        assert hello.agent_digest == Bundle.of_this_version().digest
        again = board.connect()
        assert again.hello(socket.gethostname()).pid == hello.pid
        again.close()
    assert deployments == ["loop"]
    assert home.stat().st_mode & 0o077 == 0
    assert len(list((home / "bundles").iterdir())) == 1


@pytest.mark.ssh
@pytest.mark.slow
def test_a_login_script_that_prints(make: Callable[..., SshBoard], sshd: Sshd) -> None:
    """A login script that prints, at every login, disturbs neither deployment nor conversation."""
    script = sshd.login / ".bashrc"
    script.write_text("echo Welcome; printf 'no line feed'; echo careful >&2\n")
    try:
        board = make()
        with ended(board):
            session = board.connect()
            assert session.hello(socket.gethostname()).fingerprint.cpu_count
            assert session.has(["0" * 64]).complete == ()
            session.close()
    finally:
        script.unlink()


@pytest.mark.ssh
@pytest.mark.slow
def test_through_a_jump_host(
    make: Callable[..., SshBoard], sshd: Sshd, tmp_path: Path, deployments: list[str]
) -> None:
    """A board behind a jump host is deployed to and reached through it."""
    known, config = tmp_path / "jump_known", tmp_path / "config"
    known.write_text(sshd.known_hosts_line(f"[127.0.0.1]:{sshd.port}"))
    config.write_text(sshd.ssh_config.read_text() + f"Host *\n  UserKnownHostsFile {known}\n")
    board = make(jump="loop", ssh_config=config)
    with ended(board):
        session = board.connect()
        assert session.hello(socket.gethostname()).pid
        session.close()
    assert deployments == ["loop"]


@pytest.mark.ssh
@pytest.mark.slow
def test_a_half_made_bundle(make: Callable[..., SshBoard], home: Path) -> None:
    """Half a bundle in the bundle's place, as no cut of ours leaves it, is replaced."""
    name = Bundle.of_this_version().directory_name
    (home / "bundles" / name / "agent").mkdir(parents=True)
    board = make()
    with ended(board):
        session = board.connect()
        assert session.hello(socket.gethostname()).pid
        session.close()


# ---------------------------------------------------------------- it is refused


def refused(board: SshBoard) -> Exception:
    with pytest.raises(Exception) as caught:  # noqa: PT011 - the tests below look at the class
        board.connect()
    return caught.value


@pytest.mark.ssh
def test_unknown_key(make: Callable[..., SshBoard], home: Path, deployments: list[str]) -> None:
    """A board whose key is not recorded gets nothing: no login, no file, no second try."""
    board = make(name="stranger")
    assert isinstance(refused(board), HostKeyRejected)
    assert (home.exists(), deployments) == (False, [])


@pytest.mark.ssh
@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"user": "nobody-of-that-name"}, "login was refused"),
        ({"address": "no-such-board.invalid"}, "cannot be resolved"),
    ],
)
def test_not_reached(
    changes: dict[str, object], words: str, make: Callable[..., SshBoard], deployments: list[str]
) -> None:
    """Where ssh does not get in, its reason is the error and nothing else is tried."""
    error = refused(make(**changes))
    assert isinstance(error, BoardUnreachable)
    assert words in str(error)
    assert deployments == []


@pytest.mark.ssh
def test_nothing_listens(make: Callable[..., SshBoard]) -> None:
    """A board that is off is unreachable, at once."""
    assert isinstance(refused(make(port=free_port())), BoardUnreachable)


@pytest.mark.ssh
def test_words_of_ssh_that_nobody_knows(
    make: Callable[..., SshBoard], tmp_path: Path, deployments: list[str]
) -> None:
    """Words of ssh's that are not in our list are shown as they are, and nothing else is tried."""
    config = tmp_path / "bad"
    config.write_text("Nonsense yes\n")
    error = refused(make(ssh_config=config))
    assert isinstance(error, BoardUnreachable)
    assert "Bad configuration option: nonsense" in str(error)
    assert deployments == []


def test_no_ssh(make_offline: Callable[..., SshBoard], monkeypatch: pytest.MonkeyPatch) -> None:
    """Without ssh on this machine the error says so."""
    monkeypatch.setenv("PATH", "/nowhere")
    error = refused(make_offline())
    assert isinstance(error, BoardUnreachable)
    assert "cannot run ssh here" in str(error)


@pytest.fixture
def make_offline(tmp_path: Path) -> Callable[..., SshBoard]:
    def made() -> SshBoard:
        return SshBoard(SshTarget("pi", "127.0.0.1", tmp_path / "k"), home="~/x", python="python3")

    return made


# ---------------------------------------------------------------- the board's Python


@pytest.mark.ssh
def test_no_such_python(make: Callable[..., SshBoard]) -> None:
    """An interpreter that is not there is named, with what the board needs."""
    error = refused(make("/opt/no/python3"))
    assert isinstance(error, PackagesMissing)
    assert "/opt/no/python3 cannot run the agent" in str(error)
    assert "3.11" in str(error)


@pytest.fixture(scope="session")
def bare_python(tmp_path_factory: pytest.TempPathFactory) -> str:
    """An interpreter without any package."""
    folder = tmp_path_factory.mktemp("bare")
    venv.create(folder, with_pip=False, symlinks=True)
    return str(folder / "bin" / "python")


@pytest.mark.ssh
@pytest.mark.slow
def test_bare_python(make: Callable[..., SshBoard], bare_python: str) -> None:
    """An interpreter without the agent's packages is refused with a list of all of them."""
    error = refused(make(bare_python))
    assert isinstance(error, PackagesMissing)
    for package in ("msgspec", "numpy", "onnxruntime", "pillow", "psutil", "rpyc"):
        assert f"{package}: ModuleNotFoundError" in str(error)
    assert "agent/requirements.lock" in str(error)


@pytest.mark.ssh
@pytest.mark.slow
def test_one_package_is_missing(
    make: Callable[..., SshBoard], tmp_path: Path, bare_python: str
) -> None:
    """An interpreter that lacks one package only is told which."""
    folder = tmp_path / "nearly"
    venv.create(folder, with_pip=False, symlinks=True)
    (site,) = (folder / "lib").glob("python*/site-packages")
    (site / "all.pth").write_text("\n".join(path for path in sys.path if "site-packages" in path))
    (site / "sitecustomize.py").write_text("import sys\nsys.modules['onnxruntime'] = None\n")
    board = make(str(folder / "bin" / "python"))
    with ended(board):
        error = refused(board)
    assert isinstance(error, PackagesMissing)
    assert "onnxruntime" in str(error)
    assert "numpy" not in str(error)


@pytest.mark.ssh
@pytest.mark.slow
def test_a_home_of_others(make: Callable[..., SshBoard], home: Path) -> None:
    """What the agent itself says is in the way is the error, and it is not deployed again."""
    bundle = Bundle.of_this_version()
    bundle.install(home)
    (home / "agent.lock").mkdir()  # the agent cannot hold it
    error = refused(make())
    assert isinstance(error, AgentDied)
    assert "agent.lock" in str(error) or "log" in str(error)


# ---------------------------------------------------------------- the probe's report


def report(**missing: str) -> str:
    return json.dumps({"python": "3.11.2", "packages": {}, "missing": missing})


def test_nothing_is_missing() -> None:
    """A probe that misses nothing is no problem, whatever a login script printed before it."""
    for banner in ("", "Welcome\n{not json\n", "no line feed"):
        assert _read_probe(f"{banner}{report()}\n", "", "pi", "python3") is None


def test_reasons_of_the_probe() -> None:
    """Each thing that is missing is listed with its reason."""
    why = "its import was ended by signal 4 (SIGILL, illegal instruction on this CPU)"
    error = _read_probe(report(onnxruntime=why, rpyc="No module"), "", "pi", "/usr/bin/python3")
    assert isinstance(error, PackagesMissing)
    assert f"onnxruntime: {why}; rpyc: No module" in str(error)
    assert "/usr/bin/python3 (Python 3.11.2)" in str(error)


@pytest.mark.parametrize("stdout", ["", "[]", "{", '"text"', "{}x", "[" * 100_000, "null"])
def test_a_report_that_is_none(stdout: str) -> None:
    """What is no report at all is an interpreter that cannot run the agent, in its own words."""
    error = _read_probe(stdout, "SyntaxError: invalid syntax\n", "pi", None)
    assert isinstance(error, PackagesMissing)
    assert "SyntaxError: invalid syntax" in str(error)


# ---------------------------------------------------------------- command lines


def shown(python: str | None) -> str:
    board = SshBoard(SshTarget("pi", "h", Path("/k")), home="~/a", python=python)
    return board._agent(Bundle("ab" * 32, {}), "probe")


def run_by_sh(line: str, home: Path) -> str:
    """What a command line prints in a home whose interpreters print their own names."""
    return subprocess.run(
        ["sh", "-c", line], env={"HOME": str(home), "PATH": f"{home}/path:{os.environ['PATH']}"},
        capture_output=True, text=True, check=True, timeout=20,
    ).stdout  # fmt: skip


@pytest.fixture
def far(tmp_path: Path) -> Path:
    """A board user's home with interpreters that only say who they are."""
    for name in ("path/python3", "own/python", "a/env/v1/bin/python3"):
        path = tmp_path / name
        path.parent.mkdir(parents=True)
        path.write_text(f'#!/bin/sh\necho {name} "$@"\n')
        path.chmod(0o755)
    return tmp_path


def test_the_python_of_the_inventory(far: Path) -> None:
    """The interpreter that the inventory names runs the bundle, isolated."""
    assert run_by_sh(shown("~/own/python"), far).split() == [
        "own/python", "-I", f"{far}/a/bundles/{'ab' * 6}", "probe",
    ]  # fmt: skip


def test_without_a_python(far: Path) -> None:
    """Without one, the provisioned interpreter is taken where there is one, else python3."""
    assert run_by_sh(shown(None), far).startswith("path/python3 -I ")
    (far / "a/env/current").symlink_to("v1")
    assert run_by_sh(shown(None), far).startswith("a/env/v1/bin/python3 -I ")
