"""Against a real package index: slow, and left out without one."""

from __future__ import annotations

import platform
from pathlib import Path

import pytest
from support.boards import agent_options, ended, ssh_target
from support.sshd import Sshd

from orchestrator.boards.ssh import SshBoard
from orchestrator.boards.welcome import REQUIRED
from orchestrator.errors import WheelsMissing
from orchestrator.provision.campaign import Job, provision
from orchestrator.provision.install import Wish
from orchestrator.provision.larder import Larder
from orchestrator.provision.lock import shipped_pins
from orchestrator.provision.target import Target
from orchestrator.provision.wheels import download

pytestmark = pytest.mark.slow

PINS = shipped_pins()


def leave_out_without_index(error: WheelsMissing) -> None:
    if "cannot be reached" in str(error):
        pytest.skip("no package index can be reached from this machine")


@pytest.mark.parametrize("machine", ["aarch64", "x86_64"])
@pytest.mark.parametrize("python", [(3, 11), (3, 13)])
def test_the_whole_lock_resolves(tmp_path: Path, machine: str, python: tuple[int, int]) -> None:
    """Every pin has a wheel of just that version for both Pythons, with bookworm's glibc."""
    try:
        files = download(Target(machine, python, (2, 36)), PINS, tmp_path)
    except WheelsMissing as exc:
        leave_out_without_index(exc)
        raise
    assert len(files) == len(PINS)
    for pin, path in zip(PINS, files, strict=True):
        assert path.name.lower().startswith(f"{pin.name.replace('-', '_')}-{pin.version}-")
    native = {path.name.partition("-")[0] for path in files if machine in path.name}
    assert {"onnxruntime", "numpy", "pillow", "msgspec", "psutil"} <= native


def test_a_glibc_without_wheels_is_no_older_version(tmp_path: Path) -> None:
    """A board whose glibc is too old for a pinned version is refused, not given an older one."""
    with pytest.raises(WheelsMissing, match=r"no wheel of .*==.*glibc 2\.17|cannot be") as refused:
        download(Target("aarch64", (3, 11), (2, 17)), PINS, tmp_path)
    leave_out_without_index(refused.value)
    assert list(tmp_path.glob("numpy*")) == []


@pytest.mark.ssh
def test_a_bare_home_answers_with_the_real_packages(tmp_path: Path, sshd: Sshd) -> None:
    """A bare account gets the real wheels, its agent answers from them, nothing else is left."""
    if platform.machine() not in ("x86_64", "aarch64"):
        pytest.skip(f"there are no wheels for {platform.machine()}")
    target, home = ssh_target(sshd, tmp_path), tmp_path / "home"
    before = set(sshd.login.rglob("*"))
    job = Job(target, str(home), Wish("loop", extra=agent_options(tmp_path)))
    larder = Larder(tmp_path / "wheels", PINS)
    (outcome,) = provision([job], larder, lambda board, text: None)
    if isinstance(outcome.error, WheelsMissing):
        leave_out_without_index(outcome.error)
    assert outcome.error is None
    board = SshBoard(target, home=str(home), extra=agent_options(tmp_path))
    with ended(board):
        session = board.connect()
        hello = session.hello("host")
        session.close()
        running = Path(f"/proc/{hello.pid}/cmdline").read_bytes().split(b"\0")[0].decode()
    versions = {pin.name: pin.version for pin in PINS if pin.name in REQUIRED}
    assert hello.fingerprint.packages == versions
    assert running.startswith(f"{home}/env/")
    assert set(sshd.login.rglob("*")) == before
