import hashlib
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest
from support.agentkit import (
    Talk,
    agent_process,
    trial_spec,
    wait_until,
)
from support.onnxmodels import tiny_model

from agent import wire
from agent.daemon import MAX_CONNECTIONS, Daemon, hold_home
from agent.errors import AlreadyServing, OtherVersionBusy
from agent.home import open_home
from agent.processes import started_ticks

NOBODY = 65534


@pytest.fixture
def process(tmp_path):
    with agent_process(tmp_path) as made:
        yield made


def start_long_trial(talk, folder):
    """A real worker that samples for a minute; returns the trial's id once it has samples."""
    model = tiny_model(folder / "tiny.onnx").read_bytes()
    sha256 = hashlib.sha256(model).hexdigest()
    talk.ok(wire.Put, "put_chunk", sha256, 0, len(model), model)
    talk.ok(wire.LeaseInfo, "lease", wire.encode(wire.LeaseRequest("ann", "run-1", 60.0)))
    scenario = wire.Scenario(
        warmup_min_samples=2, warmup_min_duration_ns=0, min_samples=5,
        min_duration_ns=60_000_000_000, max_duration_ns=60_000_000_000,
    )  # fmt: skip
    spec = trial_spec(sha256=sha256, size_bytes=len(model), deadline_s=90, scenario=scenario)
    talk.ok(bool, "start", wire.encode(spec))
    wait_until(lambda: talk.ok(wire.Poll, "poll", spec.trial_id, 0).samples_done > 0, 30)
    return spec.trial_id


def worker_pid(process, trial_id):
    return json.loads((process.home.trials / trial_id / "started.json").read_text())["worker_pid"]


@pytest.mark.slow
def test_killed_agent_and_its_trial(process, tmp_path):
    """After kill -9 of the agent its worker is gone, and the next agent has the cut trial."""
    talk = Talk(process.connect())
    trial_id = start_long_trial(talk, tmp_path)
    worker = worker_pid(process, trial_id)
    assert started_ticks(worker) is not None
    process.kill()
    talk.close()
    wait_until(lambda: started_ticks(worker) is None)

    again = Talk(process.connect())
    assert again.hello().unacknowledged == (trial_id,)
    outcome = again.ok(wire.Outcome, "outcome", trial_id)
    assert outcome.state == "interrupted"
    assert outcome.load_ns is not None
    part = outcome.parts["samples"]
    data = b""
    while len(data) < part.size_bytes:
        data += again.raw("read", trial_id, "samples", len(data), 1 << 20)
    assert hashlib.sha256(data).hexdigest() == part.sha256
    assert wire.decode_samples(data).counts[2] > 0
    assert again.ok(bool, "ack", trial_id) is True
    assert again.ok(list[str], "trials") == []
    again.close()


@pytest.mark.slow
def test_terminated_agent_closes_its_trial(process, tmp_path):
    """An agent that is told to stop ends its worker, closes the trial and leaves the board free."""
    talk = Talk(process.connect())
    trial_id = start_long_trial(talk, tmp_path)
    process.kill(signal.SIGTERM)
    talk.close()
    assert (process.home.trials / trial_id / "outcome.json").exists()
    assert not process.home.socket.exists()
    again = Talk(process.connect())
    assert again.hello().lease is None
    assert again.ok(wire.Outcome, "outcome", trial_id).state == "interrupted"
    again.close()


def test_one_daemon_a_home(process):
    """A second daemon for the same directory ends at once with its own exit code."""
    Talk(process.connect()).close()
    second = subprocess.run(process.serve, capture_output=True, text=True, check=False, timeout=20)
    assert second.returncode == AlreadyServing.exit_code
    assert str(process.home.root) in second.stderr


def test_hold_home(tmp_path, monkeypatch):
    """One process holds a home; a second is told, and one of another version by what is in use."""
    monkeypatch.setattr("agent.daemon._RETIRE_PATIENCE_S", 0.1)
    asked = []
    monkeypatch.setattr(os, "kill", lambda *args: asked.append(args))
    home = open_home(tmp_path / "home", "0" * 64)
    held = hold_home(home, "one")
    with pytest.raises(AlreadyServing):
        hold_home(home, "one")
    assert asked == []
    with pytest.raises(OtherVersionBusy, match=str(os.getpid())):
        hold_home(home, "two")
    assert asked == [(os.getpid(), signal.SIGUSR1)]
    home.lock.write_text("torn{")
    with pytest.raises(AlreadyServing):
        hold_home(home, "two")
    os.close(held)
    os.close(hold_home(home, "two"))


def test_stale_socket(process):
    """A socket that a dead agent left behind does not keep the next one from starting."""
    first = Talk(process.connect())
    first.hello()
    process.kill()
    first.close()
    assert process.home.socket.exists()
    second = Talk(process.connect())
    assert second.hello().protocol == wire.PROTOCOL
    second.close()


def test_connections_are_bounded(process):
    """One connection more than allowed is closed at once; the others and later ones are served."""
    process.connect().close()
    wait_until(lambda: connections(process) == 0)
    open_ones = [process.connect() for _ in range(MAX_CONNECTIONS)]
    with socket.socket(socket.AF_UNIX) as surplus:
        surplus.settimeout(10)
        surplus.connect(str(process.home.socket))
        assert surplus.recv(1) == b""
    talk = Talk(open_ones.pop())
    assert talk.hello().protocol == wire.PROTOCOL
    talk.close()
    for sock in open_ones:
        sock.close()
    wait_until(lambda: connections(process) == 0)
    process.connect().close()


def connections(process):
    """Threads of the daemon beyond its main one."""
    return len(list(Path(f"/proc/{process.pid()}/task").iterdir())) - 1


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can act as a second account")
def test_other_accounts_are_refused():
    """A process of another account is not answered, even if it can reach the socket."""
    code = (
        "import os, socket, sys; s = socket.socket(socket.AF_UNIX); s.settimeout(10)\n"
        f"os.setuid({NOBODY}); s.connect(sys.argv[1]); print(s.recv(100))"
    )
    with tempfile.TemporaryDirectory() as folder, agent_process(Path(folder)) as process:
        process.connect().close()
        for path in (Path(folder), process.home.root, process.home.socket):
            path.chmod(0o777)
        done = subprocess.run(
            [sys.executable, "-c", code, str(process.home.socket)], capture_output=True,
            text=True, check=False,
        )  # fmt: skip
    assert done.stdout == "b''\n", done.stderr


def test_no_port_is_opened(process):
    """The agent has no socket but Unix ones."""
    talk = Talk(process.connect())
    pid = talk.hello().pid
    inodes = set()
    for entry in Path(f"/proc/{pid}/fd").iterdir():
        target = str(entry.readlink())
        if target.startswith("socket:["):
            inodes.add(target[8:-1])
    table = Path("/proc/net/unix").read_text().splitlines()
    unix = {line.split()[6] for line in table[1:]}
    assert inodes
    assert inodes <= unix
    talk.close()


def test_silent_peers_are_left(tmp_path, monkeypatch):
    """A connection without a call for long is closed: its host may be gone without a word."""
    monkeypatch.setattr("agent.daemon.SILENCE_S", 0.1)
    ours, theirs = socket.socketpair()
    daemon = Daemon(open_home(tmp_path / "home", "0" * 64), None, 60.0)
    daemon._slots.acquire()
    daemon._connections = 1
    theirs.settimeout(10)
    daemon._converse(ours)
    assert theirs.recv(100) == wire.MAGIC
    while data := theirs.recv(100):
        assert data
    assert daemon._connections == 0
    theirs.close()


@pytest.mark.parametrize("parent", ["gone", "dies"])
def test_worker_dies_with_its_agent(parent):
    """A worker ends with its agent, also when that was gone before the worker could look."""
    worker = (
        "import os, sys, time; from agent.attach import attach\n"
        "attach(int(sys.argv[1])); print('tied', flush=True); time.sleep(60)"
    )
    number = "'1'" if parent == "gone" else "str(os.getpid())"
    starter = (
        f"import os, subprocess, sys, time\n"
        f"p = subprocess.Popen([sys.executable, '-c', {worker!r}, {number}])\n"
        f"print(p.pid, flush=True); time.sleep(60)"
    )
    with subprocess.Popen(
        [sys.executable, "-c", starter], stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        child = int(process.stdout.readline())
        if parent == "dies":
            assert process.stdout.readline() == "tied\n"
            assert started_ticks(child) is not None
            process.kill()
        wait_until(lambda: started_ticks(child) is None)
        process.kill()


def test_workers_are_the_first_to_go():
    """When memory runs out the kernel takes a worker, not the agent or sshd."""
    code = (
        "from agent.attach import attach; attach(None)\n"
        "print(open('/proc/self/oom_score_adj').read())"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert int(done.stdout) == 900


def test_idle_agent_costs_nothing(process):
    """An agent that waits uses next to no processor time."""
    talk = Talk(process.connect())
    pid = talk.hello().pid

    def ticks():
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return int(fields[11]) + int(fields[12])

    before = ticks()
    time.sleep(1)
    assert ticks() - before <= 5
    talk.close()
