import os
import stat
import subprocess
import sys

import pytest

from agent.errors import HomeUnsafe
from agent.home import open_home, own_command

DIGEST = "0123456789abcdef" * 4


def test_made_private(tmp_path):
    """A new directory is private, with its parents, whatever the umask."""
    before = os.umask(0)
    try:
        home = open_home(tmp_path / "a" / "b", DIGEST)
    finally:
        os.umask(before)
    assert stat.S_IMODE(home.root.stat().st_mode) == 0o700
    assert home.socket == home.root / "agent-0123456789ab.sock"


def test_opened_again_is_closed(tmp_path):
    """An existing directory of ours that is open to others is closed to them."""
    root = tmp_path / "home"
    root.mkdir()
    root.chmod(0o755)
    open_home(root, DIGEST)
    assert stat.S_IMODE(root.stat().st_mode) == 0o700


def test_file_in_its_place(tmp_path):
    """A file where the directory should be is refused in words."""
    (tmp_path / "home").write_text("x")
    with pytest.raises(HomeUnsafe, match="home"):
        open_home(tmp_path / "home", DIGEST)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a directory away")
def test_another_accounts_directory(tmp_path):
    """A directory of another account is refused, naming both."""
    root = tmp_path / "home"
    root.mkdir()
    os.chown(root, 12345, 12345)
    with pytest.raises(HomeUnsafe, match="uid 12345"):
        open_home(root, DIGEST)


def test_mode_that_cannot_be_changed(tmp_path, monkeypatch):
    """A file system without modes, such as FAT, is refused."""
    root = tmp_path / "home"
    root.mkdir()
    root.chmod(0o755)
    monkeypatch.setattr("pathlib.Path.chmod", lambda *_: None)
    with pytest.raises(HomeUnsafe, match="mode 755"):
        open_home(root, DIGEST)


def test_long_path_gets_a_short_socket(tmp_path):
    """A long path's socket lies below the temporary directory, in private directories."""
    one, two = (open_home(tmp_path / ("x" * 90) / name, DIGEST, tmp_path) for name in "ab")
    for home in (one, two):
        assert home.socket.parent.parent == tmp_path / f"orchestrator-{os.geteuid()}"
        for directory in (home.socket.parent, home.socket.parent.parent):
            assert stat.S_IMODE(directory.stat().st_mode) == 0o700
    assert one.socket != two.socket


def test_trap_in_the_temporary_directory(tmp_path):
    """A link that another account could have put there is not followed."""
    trap = tmp_path / f"orchestrator-{os.geteuid()}"
    trap.symlink_to(tmp_path)
    with pytest.raises(HomeUnsafe):
        open_home(tmp_path / ("x" * 90), DIGEST, tmp_path)


def test_link_to_a_directory(tmp_path):
    """A home may be a link; what counts is the directory it leads to."""
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    assert open_home(tmp_path / "link", DIGEST).root == tmp_path / "real"


def test_own_command_in_a_bundle(tmp_path, monkeypatch):
    """In a bundle the agent runs itself by the bundle's directory, isolated."""
    (tmp_path / "agent").mkdir()
    (tmp_path / "__main__.py").write_text("")
    monkeypatch.setattr("agent.home.__file__", str(tmp_path / "agent" / "home.py"))
    assert own_command() == [sys.executable, "-I", str(tmp_path)]


def test_own_command_in_a_source_tree(tmp_path):
    """Without a bundle it finds its own package, not one of the current directory."""
    (tmp_path / "agent.py").write_text("raise SystemExit('shadowed')")
    done = subprocess.run(
        [*own_command(), "--help"], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert "dial" in done.stdout
