"""Provisioning over a real sshd; the packages are tiny ones under the real names."""

from __future__ import annotations

import contextlib
import platform
import secrets
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest
from packaging.utils import parse_wheel_filename
from support.boards import agent_options, ended, ssh_target
from support.fakewheels import make_wheel, make_wheels
from support.sshd import Sshd

from agent import wire
from orchestrator.boards.remote import open_remote
from orchestrator.boards.ssh import SshBoard
from orchestrator.boards.sshcommand import SshTarget
from orchestrator.boards.welcome import probe_report
from orchestrator.cli import main
from orchestrator.deploy import HOME_MARKER, Bundle
from orchestrator.errors import BoardDiskFull, BoardUnfit, BoardUnreachable
from orchestrator.provision import campaign, environment, survey
from orchestrator.provision.campaign import Job, Outcome, provision
from orchestrator.provision.install import Wish
from orchestrator.provision.larder import Larder
from orchestrator.provision.lock import shipped_pins

pytestmark = pytest.mark.ssh

PINS = shipped_pins()
BULK_BYTES = 3 << 20
REPOSITORY = Path(__file__).parents[2]


@dataclass
class Bench:
    """A board behind sshd, versions of the packages, and what was said."""

    target: SshTarget
    folder: Path
    larders: dict[str, Larder]
    said: list[str] = field(default_factory=list)

    @property
    def home(self) -> Path:
        return self.folder / "home"

    @property
    def job(self) -> Job:
        return Job(self.target, str(self.home), Wish("loop", extra=agent_options(self.folder)))

    def run(self, version: str = "one") -> Outcome:
        self.said.clear()
        (outcome,) = provision([self.job], self.larders[version], self.say)
        return outcome

    def say(self, board: str, text: str) -> None:
        self.said.append(text)

    def has(self, words: str) -> bool:
        return any(words in line for line in self.said)

    def environments(self) -> list[str]:
        return sorted(path.name for path in (self.home / "env").iterdir())

    def current(self) -> str:
        return (self.home / "env" / "current").readlink().name

    def files(self) -> dict[str, tuple[int, int]]:
        """Size and time of change of every file of the home."""
        found = [path for path in self.home.rglob("*") if path.is_file()]
        return {str(path): (path.stat().st_size, path.stat().st_mtime_ns) for path in found}


@pytest.fixture(scope="module")
def larders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Larder]:
    """The packages in versions: the second is large, the third crashes as on a foreign CPU."""
    folder = tmp_path_factory.mktemp("wheels")
    crash = "import os, signal\nos.kill(os.getpid(), signal.SIGILL)\n"
    made = {
        "one": make_wheels(folder / "one", PINS),
        "two": make_wheels(folder / "two", PINS, bulk=secrets.token_bytes(BULK_BYTES)),
        "bad": make_wheels(folder / "bad", PINS, {"onnxruntime": crash}),
    }
    return {
        name: Larder(folder / f"kept-{name}", PINS, offline=wheels) for name, wheels in made.items()
    }


@pytest.fixture
def bench(
    tmp_path: Path, sshd: Sshd, larders: dict[str, Larder], monkeypatch: pytest.MonkeyPatch
) -> Bench:
    monkeypatch.setattr(campaign, "_PAUSE_S", 0.0)
    return Bench(ssh_target(sshd, tmp_path), tmp_path, larders)


def test_from_nothing_to_ready_and_again(bench: Bench) -> None:
    """A bare home becomes one whose Python dialling finds; a second call moves nothing."""
    assert bench.run().error is None
    assert bench.environments() == sorted(["current", bench.current()])
    assert (bench.home / HOME_MARKER).is_file()
    assert bench.home.stat().st_mode & 0o077 == 0
    report = dialled(bench, "probe")
    assert report["missing"] == {}
    assert report["executable"] == f"{bench.home}/env/{bench.current()}/bin/python3"
    before = bench.files()
    assert bench.run().error is None
    assert bench.has("nothing was moved")
    assert bench.files() == before


def dialled(bench: Bench, words: str) -> dict[str, object]:
    """What the agent's probe says when it is run as dialling runs the agent."""
    bundle = Bundle.of_this_version()
    command = SshBoard(bench.target, home=str(bench.home))._agent(bundle, words)
    with open_remote(bench.target) as remote:
        remote.install(bundle, str(bench.home))
        report = probe_report(remote.run(command).stdout)
    assert report is not None
    return report


def python313() -> Path:
    """A real Python 3.13, which Raspberry Pi OS trixie has."""
    found = subprocess.run(
        [REPOSITORY / ".ci" / "python313"], capture_output=True, text=True, timeout=60, check=False
    )
    if found.returncode != 0:
        pytest.skip(found.stderr.strip())
    return Path(found.stdout.strip())


@pytest.fixture
def with_python313(sshd: Sshd) -> Iterator[Path]:
    """The board's `python3` is a Python 3.13."""
    python = python313()
    own = sshd.login / "bin"
    own.mkdir()
    (own / "python3").symlink_to(python)
    yield python
    shutil.rmtree(own)


@pytest.mark.slow
def test_a_board_with_python_313(bench: Bench, with_python313: Path) -> None:
    """A board with Python 3.13 gets wheels for that, and its agent runs under it."""
    folder = bench.folder / "wheels"
    pins = [pin for pin in PINS if pin.name != "numpy"]
    (numpy,) = set(PINS) - set(pins)
    make_wheels(folder, pins)
    for version in ("311", "313"):
        source = f"import sys\nassert sys.version_info[:2] == (3, {version[1:]})\n"
        tag = f"cp{version}-cp{version}-manylinux2014_{platform.machine()}"
        make_wheel(folder, numpy, tag, source=source)
    kept = bench.folder / "kept"
    bench.larders = {"one": Larder(kept, PINS, offline=folder)}
    with open_remote(bench.target) as remote:
        found = survey.ask(remote, "loop", str(bench.home))
    target, python = survey.target_of(found, "loop")
    assert (target.python, python.version[:2]) == ((3, 13), (3, 13))
    assert python.path == str(with_python313.resolve())
    assert bench.run().error is None
    wheels = [parse_wheel_filename(path.name) for path in kept.glob("*/*.whl")]
    assert {tag.interpreter for *_, tags in wheels for tag in tags} == {"cp313", "py3"}
    assert len(wheels) == len(PINS)
    report = dialled(bench, "probe")
    assert report["missing"] == {}
    assert str(report["python"]).startswith("3.13.")
    assert report["executable"] == f"{bench.home}/env/{bench.current()}/bin/python3"
    assert bench.run().error is None
    assert bench.has("nothing was moved")


def test_dialling_without_provisioning(bench: Bench) -> None:
    """Where nothing was provisioned, the board's python3 is run."""
    with open_remote(bench.target) as remote:
        python3 = remote.run("command -v python3").stdout.strip()
    assert dialled(bench, "probe")["executable"] == python3


@pytest.mark.slow
def test_older_versions_go(bench: Bench) -> None:
    """The next version replaces the last one, and what older agents left goes too."""
    bench.run()
    first = bench.current()
    stale = bench.home / "bundles" / "0123456789ab"
    stale.mkdir()
    (bench.home / "env" / ".new-feedfeedfeed").mkdir()
    assert bench.run("two").error is None
    assert bench.current() != first
    assert bench.environments() == sorted(["current", bench.current()])
    assert not stale.exists()
    assert bench.has(f"env/{first}")


def cut_after(
    monkeypatch: pytest.MonkeyPatch, chunks: int
) -> tuple[list[int], list[tuple[int, int]]]:
    """Cut the first connection in the middle of its push; (starts, chunks sent) of each push."""
    opened: list[object] = []
    starts: list[int] = []
    sent: list[tuple[int, int]] = []
    real_open, real_chunks = campaign.open_remote, environment._chunks

    @contextlib.contextmanager
    def open_and_keep(target: SshTarget) -> Iterator[object]:
        with real_open(target) as remote:
            opened.append(remote)
            yield remote

    def chunks_then_cut(path: Path, start: int, progress: object) -> Iterable[bytes]:
        starts.append(start)
        for index, chunk in enumerate(real_chunks(path, start, progress)):  # type: ignore[arg-type]
            if len(opened) == 1 and index == chunks:
                opened[0]._connection.transport.close()  # type: ignore[attr-defined]
            sent.append((len(starts), len(chunk)))
            yield chunk

    monkeypatch.setattr(campaign, "open_remote", open_and_keep)
    monkeypatch.setattr(environment, "_chunks", chunks_then_cut)
    return starts, sent


def test_a_cut_push_goes_on(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """When the connection breaks in the middle of a push, the rest is sent and nothing twice."""
    starts, _ = cut_after(monkeypatch, 8)
    assert bench.run("two").error is None
    assert starts[0] == 0
    assert 0 < starts[1] < BULK_BYTES
    assert bench.has("of them are there already")
    assert bench.environments() == sorted(["current", bench.current()])
    bulk = next(bench.home.glob("env/*/lib/*/site-packages/numpy/bulk"))
    assert bulk.stat().st_size == BULK_BYTES


@pytest.mark.slow
def test_a_push_that_is_cut_for_good(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """A connection that stays away is an error, and a later call goes on where it ended."""
    starts, _ = cut_after(monkeypatch, 4)
    monkeypatch.setattr(campaign, "TRIES", 1)
    assert isinstance(bench.run("two").error, BoardUnreachable)
    assert not (bench.home / "env" / "current").exists()
    assert bench.run("two").error is None
    assert starts[1] > 0


def test_a_damaged_part_is_sent_again(bench: Bench) -> None:
    """A part with wrong bytes is found out by its digest and sent again as a whole."""
    with open_remote(bench.target) as remote:
        found = survey.ask(remote, "loop", str(bench.home))
    target, python = survey.target_of(found, "loop")
    tree = bench.larders["one"].tree(target, lambda text: None)
    wanted = environment.Environment(str(bench.home), tree, target, python)
    part = bench.home / "env" / wanted.part
    part.parent.mkdir(parents=True)
    part.write_bytes(bytes(1000))
    assert bench.run().error is None
    assert bench.has("sent again")
    assert bench.current() == wanted.id
    assert not part.exists()


@pytest.mark.slow
def test_what_stopped_working_is_replaced(bench: Bench) -> None:
    """Packages that were damaged on the card are noticed and put there anew."""
    bench.run()
    (module,) = bench.home.glob(f"env/{bench.current()}/lib/*/site-packages/psutil/__init__.py")
    module.write_text("raise ImportError('bit rot')\n")
    assert bench.run().error is None
    assert bench.has("bit rot")
    assert bench.run().error is None
    assert bench.has("nothing was moved")


@pytest.mark.slow
def test_packages_that_the_processor_cannot_run(bench: Bench) -> None:
    """A native package that ends with signal 4 is named, and what worked before stays in use."""
    bench.run()
    good = bench.current()
    error = bench.run("bad").error
    assert isinstance(error, BoardUnfit)
    assert "onnxruntime: its import was ended by signal 4" in str(error)
    assert "illegal instruction on this CPU" in str(error)
    assert bench.environments() == sorted(["current", good])
    assert bench.current() == good


def test_too_little_room(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """A board without room is refused before anything is pushed, with both figures."""
    monkeypatch.setattr(environment, "SPARE_BYTES", 1 << 60)
    error = bench.run().error
    assert isinstance(error, BoardDiskFull)
    assert "MiB are free" in str(error)
    assert not (bench.home / "env").exists()


def test_a_refused_board_is_left_alone(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is put on a board that is refused."""
    monkeypatch.setattr(survey, "refusal", lambda found: "it has 32 bits")
    assert isinstance(bench.run().error, BoardUnfit)
    assert not bench.home.exists()


@pytest.mark.slow
def test_one_board_fails(bench: Bench) -> None:
    """A board that cannot be reached is called once, and the others are provisioned."""
    away = replace(bench.job, target=replace(bench.target, name="away", port=1))
    outcomes = provision([away, bench.job], bench.larders["one"], bench.say)
    assert [type(one.error) for one in outcomes] == [BoardUnreachable, type(None)]
    assert [one.identity is None for one in outcomes] == [True, False]
    assert not bench.has("called again")


@pytest.mark.slow
def test_a_run_is_using_the_board(bench: Bench) -> None:
    """While a run holds the board its agent keeps its version; afterwards the old one goes."""
    bench.run()
    first = bench.current()
    board = SshBoard(
        bench.target, home=str(bench.home), python=sys.executable,
        extra=agent_options(bench.folder),
    )  # fmt: skip
    with ended(board):
        session = board.connect()
        session.lease(wire.LeaseRequest(holder="tester", run_id="r1", ttl_s=60.0))
        assert bench.run("two").error is None
        assert bench.has("a run is using the board")
        assert first in bench.environments()
        assert bench.current() != first
        session.release("r1")
        session.close()
        assert bench.run("two").error is None
        assert first not in bench.environments()


# ---------------------------------------------------------------- the command


@pytest.fixture
def workspace(
    bench: Bench, sshd: Sshd, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., tuple[str, ...]]:
    """Writes an inventory of boards that are all behind the test's sshd; the command for them."""

    def made(*names: str) -> tuple[str, ...]:
        folder = bench.folder
        lines = [
            f"  {name}: {{ssh_alias: loop, home: {folder}/{name}, lock: {folder}/{name}.lock}}"
            for name in names
        ]
        text = "\n".join((f"ssh_config: {sshd.ssh_config}", "boards:", *lines, ""))
        (folder / "inventory.yaml").write_text(text)
        known = folder / ".orchestrator/known_hosts"
        known.parent.mkdir()
        known.write_text("".join(sshd.known_hosts_line(name) for name in names))
        monkeypatch.chdir(folder)
        wheels = make_wheels(folder / "wheels", PINS)
        return ("boards", "provision", *names, "--wheels", str(wheels))

    return made


@pytest.mark.slow
@pytest.mark.parametrize(
    ("serial", "words"),
    [
        ("77", "pi5 and pi4 are one board (serial number 77) under two names"),
        ("$$", "pi5 and pi4 are two boards with cards copied from one: they share the host key"),
    ],
)
def test_names_that_are_one_board_or_one_card(
    workspace: Callable[..., tuple[str, ...]],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    serial: str,
    words: str,
) -> None:
    """Provisioning two names of one board, or two copies of one card, warns with what to do."""
    script = survey.SCRIPT.replace("say end yes", f'say serial "{serial}"\nsay end yes')
    monkeypatch.setattr(survey, "SCRIPT", script)
    assert main(workspace("pi5", "pi4")) == 0
    (told,) = [line for line in capsys.readouterr().out.splitlines() if "WARNING" in line]
    assert told.startswith(f"WARNING: {words}")


@pytest.mark.slow
def test_a_login_script_that_prints(
    workspace: Callable[..., tuple[str, ...]],
    bench: Bench,
    sshd: Sshd,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """A board that prints at every login is provisioned all the same, and the user is told."""
    script = sshd.login / ".bashrc"
    script.write_text("echo end=yes; echo home=/nowhere; echo Welcome; echo be careful >&2\n")
    try:
        assert main(workspace("pi5")) == 0
        said = capsys.readouterr().out
        assert main(("boards", "provision", "pi5")) == 0  # the wheels are kept
    finally:
        script.unlink()
    assert "prints something at every ssh command" in said
    assert (bench.folder / "pi5/env/current").is_symlink()
    assert "WARNING" not in said
    assert "nothing was moved" in capsys.readouterr().out
