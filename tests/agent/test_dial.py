import json
import os
import selectors
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from support.agentkit import AgentProcess, Dialled, agent_digest, read_exactly, wait_until

from agent import dial as dialling
from agent import wire
from agent.errors import AgentUnavailable
from agent.home import open_home, own_command


@pytest.fixture
def folder():
    """Where an agent may live; whatever daemon was started there is killed at the end.

    Its path is short, so that the socket lies in the agent's own directory.
    """
    with tempfile.TemporaryDirectory() as name:
        yield Path(name)
        while Dialled.every:
            Dialled.every.pop().end()
        AgentProcess(open_home(Path(name) / "home", agent_digest()), ()).kill()


def dial_command(folder, *more, idle_s=60):
    return [
        *own_command(), "dial", "--home", str(folder / "home"),
        "--lock", str(folder / "board.lock"), "--idle-s", str(idle_s), *more,
    ]  # fmt: skip


def daemon_of(folder):
    return AgentProcess(open_home(folder / "home", agent_digest()), ())


def test_starts_the_agent_and_carries_calls(folder):
    """Dialling where nothing runs starts the agent, prints the magic line, then carries calls."""
    dialled = Dialled(dial_command(folder))
    hello = dialled.greeted().hello()
    assert hello.agent_digest == agent_digest()
    assert hello.pid == daemon_of(folder).pid()
    assert dialled.end() == (0, "")


def test_the_agent_outlives_the_dial(folder):
    """The end of a dial, even a violent one of its whole group, leaves the agent running."""
    first = Dialled(dial_command(folder))
    pid = first.greeted().hello().pid
    os.killpg(first.process.pid, signal.SIGKILL)
    first.end()
    second = Dialled(dial_command(folder))
    assert second.greeted().hello().pid == pid
    second.end()


def test_two_dials_start_one_agent(folder):
    """Dials that find no agent at the same moment reach the same one."""
    dials = [Dialled(dial_command(folder)) for _ in range(4)]
    with ThreadPoolExecutor(4) as pool:
        pids = list(pool.map(lambda dialled: dialled.greeted().hello().pid, dials))
    assert len(set(pids)) == 1
    assert [dialled.end() for dialled in dials] == [(0, "")] * 4


def test_recovers_from_a_killed_agent(folder):
    """After kill -9 the connection ends with a reason, and the next dial starts another agent."""
    dialled = Dialled(dial_command(folder))
    pid = dialled.greeted().hello().pid
    os.kill(pid, signal.SIGKILL)
    assert dialled.process.wait(10) == AgentUnavailable.exit_code
    assert "ended the connection" in dialled.end()[1]
    again = Dialled(dial_command(folder))
    assert again.greeted().hello().pid != pid
    again.end()


def test_idle_agent_ends(folder):
    """An agent without connection, lease and trial ends by itself and leaves no socket."""
    dialled = Dialled(dial_command(folder, idle_s=0.2))
    dialled.greeted().hello()
    socket_path = daemon_of(folder).home.socket
    assert socket_path.exists()
    time.sleep(0.8)
    assert daemon_of(folder).pid() is not None, "a connection keeps it"
    dialled.end()
    wait_until(lambda: daemon_of(folder).pid() is None)
    assert not socket_path.exists()


@pytest.mark.slow
def test_lease_keeps_the_agent(folder):
    """An unexpired lease keeps an agent alive that has no connection."""
    dialled = Dialled(dial_command(folder, idle_s=0.1))
    talk = dialled.greeted()
    request = wire.LeaseRequest(holder="ann", run_id="run-1", ttl_s=2.5)
    talk.ok(wire.LeaseInfo, "lease", wire.encode(request))
    dialled.end()
    time.sleep(1.2)
    assert daemon_of(folder).pid() is not None
    wait_until(lambda: daemon_of(folder).pid() is None)


def test_home_and_socket_are_private(folder):
    """Directory, socket and log are for this account alone, whatever the umask."""
    dialled = Dialled(["sh", "-c", 'umask 0; exec "$@"', "sh", *dial_command(folder)])
    dialled.greeted().hello()
    home = daemon_of(folder).home
    modes = {path.name: path.stat().st_mode & 0o077 for path in home.root.iterdir()}
    assert modes == dict.fromkeys(modes, 0)
    assert home.root.stat().st_mode & 0o777 == 0o700
    assert set(modes) >= {"artifacts", "trials", "log.txt", "agent.lock", home.socket.name}
    dialled.end()


def test_open_home_is_closed(folder):
    """A directory that other accounts could enter is closed to them before anything is served."""
    (folder / "home").mkdir(mode=0o777)
    (folder / "home").chmod(0o777)
    Dialled(dial_command(folder)).end()
    assert (folder / "home").stat().st_mode & 0o777 == 0o700


def test_long_path(folder):
    """A directory whose path is too long for a socket works all the same."""
    deep = folder / ("d" * 60) / ("e" * 60)
    deep.mkdir(parents=True)
    dialled = Dialled(dial_command(deep))
    process = AgentProcess(open_home(deep / "home", agent_digest()), ())
    try:
        assert dialled.greeted().hello().pid == process.pid()
        assert len(os.fsencode(process.home.socket)) < 100
        assert process.home.socket.parent.stat().st_mode & 0o777 == 0o700
    finally:
        dialled.end()
        process.kill(signal.SIGTERM)
    process.home.socket.parent.rmdir()


def test_agent_that_cannot_start(folder):
    """When the agent does not come up, the end of its log and its exit code are told."""
    blocked = folder / "home" / "artifacts"
    blocked.parent.mkdir()
    blocked.write_text("a file in the way")
    dialled = Dialled(dial_command(folder))
    code, said = dialled.end() if dialled.process.wait(20) else (0, "")
    assert code == AgentUnavailable.exit_code
    assert "artifacts" in said


def test_only_the_new_part_of_the_log_is_told(tmp_path):
    """A start that fails is explained by its own words, not by those of an earlier one."""
    home = open_home(tmp_path / "home", "0" * 64)
    home.log.write_text("an old story\n")
    command = [sys.executable, "-c", "import sys; sys.exit('a new story')"]
    with pytest.raises(AgentUnavailable, match="exit code 1") as caught:
        dialling.reach(home, command, 10)
    assert "a new story" in str(caught.value)
    assert "old" not in str(caught.value)


def test_deadline(tmp_path):
    """An agent that comes up but never answers is given up at the deadline, in words."""
    home = open_home(tmp_path / "home", "0" * 64)
    started = tmp_path / "pid"
    command = [
        sys.executable, "-c",
        f"import os, time; open({str(started)!r}, 'w').write(str(os.getpid())); "
        f"print('thinking', flush=True); time.sleep(60)",
    ]  # fmt: skip
    code = (
        "import sys; from pathlib import Path; from agent.dial import reach\n"
        "from agent.home import Home; reach(Home(*map(Path, sys.argv[1:3])), sys.argv[3:], 1.0)"
    )
    try:
        done = subprocess.run(
            [sys.executable, "-c", code, str(home.root), str(home.socket), *command],
            capture_output=True, text=True, check=False, timeout=30,
        )  # fmt: skip
        assert "did not answer within 1 s: thinking" in done.stderr
    finally:
        os.kill(int(started.read_text()), signal.SIGKILL)


def test_silent_listener(tmp_path):
    """A socket on which nobody greets is no agent."""
    home = open_home(tmp_path / "home", "0" * 64)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(home.socket))
        listener.listen(1)
        assert dialling.connect(home, 0.1) is None
    assert dialling.connect(home, 0.1) is None


def test_long_log_is_put_aside(tmp_path, monkeypatch):
    """The log does not grow for ever: a long one makes room at the next start."""
    monkeypatch.setattr(dialling, "LOG_LIMIT_BYTES", 100)
    home = open_home(tmp_path / "home", "0" * 64)
    home.log.write_text("x" * 101)
    with pytest.raises(AgentUnavailable):
        dialling.reach(home, [sys.executable, "-c", "import sys; sys.exit('short')"], 10)
    assert "short" in home.log.read_text()
    assert home.log.with_name("log.old.txt").read_text() == "x" * 101


@pytest.mark.slow
def test_agents_of_other_versions_make_room(folder):
    """An agent of another version that is not in use gives way; one in use stays and says so."""
    old = Dialled(dial_command(folder))
    talk = old.greeted()
    pid = talk.hello().pid
    lock = daemon_of(folder).home.lock
    other = json.loads(lock.read_text()) | {"digest": "another"}
    lock.write_text(json.dumps(other))
    daemon_of(folder).home.socket.unlink()  # another version has another socket

    request = wire.LeaseRequest(holder="ann", run_id="run-1", ttl_s=60.0)
    talk.ok(wire.LeaseInfo, "lease", wire.encode(request))
    refused = Dialled(dial_command(folder))
    refused.process.wait(20)
    assert "a run is using it" in refused.end()[1]

    talk.ok(bool, "release", "run-1")
    new = Dialled(dial_command(folder))
    assert new.greeted().hello().pid != pid
    new.end()
    old.end()


def test_through_pipes(folder):
    """Dial works with pipes as with sockets, and the agent's answers all arrive after a hang-up."""
    process = subprocess.Popen(
        dial_command(folder), stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    out, err = process.communicate(b"", timeout=30)
    assert (process.returncode, out, err) == (0, wire.MAGIC, b"")


@pytest.fixture
def pump():
    """The two far ends of a running `_send` and `_copy` pair: (host, agent)."""
    host, stdio = socket.socketpair()
    near, agent = socket.socketpair()
    hung_up = threading.Event()
    down = threading.Thread(
        target=dialling._send, args=(stdio.fileno(), near, hung_up), daemon=True
    )
    up = threading.Thread(
        target=lambda: dialling._copy(
            near.recv_into, lambda data: dialling._write_all(stdio.fileno(), data)
        )
    )
    down.start()
    up.start()
    for sock in (host, agent):
        sock.settimeout(20)
    yield host, agent, hung_up
    for sock in (host, agent):
        sock.close()
    up.join(20)
    assert not up.is_alive()
    for sock in (stdio, near):
        sock.close()


def test_both_directions_at_once(pump):
    """Bytes of both directions arrive whole while both sides only write at first."""
    host, agent, _ = pump
    there, back = os.urandom(5 << 20), os.urandom(5 << 20)
    got = {}

    def read(name, sock, count):
        got[name] = read_exactly(sock, count)

    threads = [
        threading.Thread(target=host.sendall, args=(there,)),
        threading.Thread(target=agent.sendall, args=(back,)),
        threading.Thread(target=read, args=("there", agent, len(there))),
        threading.Thread(target=read, args=("back", host, len(back))),
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert (got["there"], got["back"]) == (there, back)


def test_half_close(pump):
    """What the agent still says after the host has finished speaking reaches the host."""
    host, agent, hung_up = pump
    host.sendall(b"question")
    host.shutdown(socket.SHUT_WR)
    assert read_exactly(agent, 100) == b"question"
    assert hung_up.wait(5)
    agent.sendall(b"answer")
    agent.close()
    assert read_exactly(host, 6) == b"answer"


def test_a_lingering_agent_is_left(pump, monkeypatch):
    """After the host has hung up, an agent that goes on talking is not waited for for ever."""
    host, agent, _ = pump
    monkeypatch.setattr(dialling, "LINGER_S", 0.1)
    host.shutdown(socket.SHUT_WR)
    with selectors.DefaultSelector() as selector:
        selector.register(agent, selectors.EVENT_READ)
        assert selector.select(5)
    assert read_exactly(agent, 1) == b""


def test_agent_gone_while_sending(pump):
    """An agent that ends while bytes are under way to it is not taken for the host's hang-up."""
    host, agent, hung_up = pump
    agent.close()
    host.settimeout(0.3)
    try:
        for _ in range(100):
            host.sendall(bytes(100_000))
    except OSError:
        pass
    assert not hung_up.is_set()
