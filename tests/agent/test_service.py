import hashlib
import os
import pickle
import secrets
import socket
import struct
import tomllib
from pathlib import Path

import msgspec
import pytest
from rpyc.core import brine, consts
from support.agentkit import (
    SHA,
    NsClock,
    Talk,
    ToldTelemetry,
    agent_digest,
    agent_process,
    fake_worker,
    trial_spec,
)

from agent import fingerprint, wire
from agent.artifacts import Artifacts
from agent.lease import Lease
from agent.runner import Surroundings
from agent.service import AGENT_VERSION, Agent, AgentService
from agent.supervisor import Supervisor
from agent.wire import FailureKind

HEAD = struct.Struct("!LB")


@pytest.fixture(scope="module")
def process(tmp_path_factory):
    with agent_process(tmp_path_factory.mktemp("service")) as made:
        yield made


@pytest.fixture
def talk(process):
    """A connection; afterwards the same agent must still answer another one."""
    made = Talk(process.connect())
    before = made.hello().pid
    yield made
    made.close()
    again = Talk(process.connect())
    assert again.hello().pid == before
    again.close()


@pytest.fixture
def service(tmp_path):
    artifacts = Artifacts(tmp_path / "artifacts")
    lease = Lease(tmp_path / "lock", NsClock())
    around = Surroundings(ToldTelemetry(), fake_worker(tmp_path, ""))
    supervisor = Supervisor(tmp_path / "trials", artifacts, lease, around)
    told = wire.Diagnosis(complete=True, board_utc_ns=7, machine_id=None, checks=())
    parts = (fingerprint.read, around.telemetry, artifacts, lease, supervisor, lambda: told)
    yield AgentService(Agent("d" * 64, *parts))
    lease.close()


def failure_of(answer):
    return wire.decode_reply(answer, msgspec.Raw).failure


def test_hello(talk):
    """An agent says its protocol, its digest, what board it is, and that nobody holds it."""
    hello = talk.hello()
    assert hello.protocol == wire.PROTOCOL
    assert hello.agent_digest == agent_digest()
    assert hello.lease is None
    assert hello.fingerprint.cpu_count == os.cpu_count()
    assert hello.reading.memory_available_bytes is not None


def test_version_is_the_packages():
    """The version that an agent reports is that of the distribution it comes with."""
    project = Path(__file__).parents[2] / "pyproject.toml"
    assert tomllib.loads(project.read_text())["project"]["version"] == AGENT_VERSION


def test_other_protocol(talk):
    """Another protocol's host is refused with both numbers."""
    failure = talk.failure("hello", wire.encode(wire.HelloRequest(protocol=99, host="x")))
    assert failure.kind is FailureKind.PROTOCOL
    assert "99" in failure.message


def test_files_and_lease_over_a_connection(talk):
    """Files arrive and the lease is given, seen by others, renewed and released."""
    data = secrets.token_bytes(100)
    sha = hashlib.sha256(data).hexdigest()
    assert talk.ok(wire.Put, "put_chunk", sha, 0, 100, data[:60]).received_bytes == 60
    assert talk.ok(wire.Has, "has", wire.encode([sha])).partial_bytes == {sha: 60}
    assert talk.ok(wire.Put, "put_chunk", sha, 60, 100, data[60:]).complete
    request = wire.LeaseRequest(holder="ann", run_id="run-1", ttl_s=30.0)
    assert talk.ok(wire.LeaseInfo, "lease", wire.encode(request)).run_id == "run-1"
    held = talk.hello().lease
    assert held is not None
    assert held.holder == "ann"
    assert talk.ok(wire.LeaseInfo, "renew", "run-1").expires_in_s > 29
    assert talk.ok(bool, "release", "run-1") is True
    assert talk.hello().lease is None


@pytest.mark.parametrize(
    ("method", "args"),
    [
        ("hello", ()),
        ("hello", ("{}", "{}")),
        ("hello", ('{"protocol":1,"host":"x","more":1}',)),
        ("hello", ('{"protocol":"1","host":"x"}',)),
        ("hello", (b"{}",)),
        ("has", ('["' + "0" * 64 + '", 7]',)),
        ("has", ("[" * 5000,)),
        ("put_chunk", ("0" * 64, 0, 10, "text")),
        ("put_chunk", ("0" * 64, 0.0, 10, b"")),
        ("put_chunk", ("0" * 64, True, 10, b"")),
        ("lease", ('{"holder":"a","run_id":"b","ttl_s":1e400}',)),
        ("lease", ('{"holder":"a","run_id":"b"}',)),
        ("renew", (None,)),
        ("start", ("null",)),
        ("poll", ("../..", 0)),
        ("poll", ("x", -1)),
        ("poll", ("x", 1 << 70)),
        ("cancel", ("",)),
        ("outcome", ((),)),
        ("ack", ("../x",)),
        ("trials", ("extra",)),
        ("doctor", ("extra",)),
    ],
)
def test_bad_requests(service, method, args):
    """What is mistyped, malformed or surplus is refused as data, naming what was expected."""
    failure = failure_of(getattr(service, f"exposed_{method}")(*args))
    assert failure is not None
    assert failure.kind in (FailureKind.BAD_REQUEST, FailureKind.UNKNOWN_TRIAL)
    assert failure.message


def test_path_of_the_bad_field(service):
    """A mistyped field is named with its path."""
    text = wire.encode(trial_spec()).replace('"min_samples":5', '"min_samples":"5"')
    failure = failure_of(service.exposed_start(text))
    assert "$.scenario.min_samples" in failure.message


@pytest.mark.parametrize(
    "args", [(), ("x", "samples", 0), ("../x", "samples", 0, 5), ("x", "samples", "0", 5)]
)
def test_read_is_bytes(service, args):
    """Reading always answers bytes: none for whatever is not there."""
    assert service.exposed_read(*args) == b""


def test_a_fault_of_ours_is_data(service, monkeypatch):
    """An unforeseen error is told in words, and the connection goes on."""
    monkeypatch.setattr(service._agent.supervisor, "trials", lambda: 1 / 0)
    failure = failure_of(service.exposed_trials())
    assert failure.kind is FailureKind.INTERNAL
    assert "ZeroDivisionError" in failure.message


def test_start_needs_what_it_names(service):
    """A trial without a lease, then one whose model is not there, are refused by kind."""
    text = wire.encode(trial_spec())
    assert failure_of(service.exposed_start(text)).kind is FailureKind.LEASE_LOST
    service.exposed_lease(wire.encode(wire.LeaseRequest("ann", "run-1", 30.0)))
    missing = failure_of(service.exposed_start(text))
    assert missing.kind is FailureKind.MISSING_ARTIFACT
    assert SHA in missing.message


def test_objects_are_refused(talk):
    """An object offered by reference is refused as a bad request, and nothing is asked of it."""
    asked = []

    class Trap:
        def __getattr__(self, name):
            asked.append(name)
            raise AttributeError(name)

    for args in ((Trap(),), ([1],), ({},), (lambda: 1,)):
        assert "remote object" in talk.failure("hello", *args).message
    asked.clear()
    assert "tuple" in talk.failure("hello", (Trap(),)).message
    assert set(asked) <= {"____id_pack__", "__name__"}  # rpyc's own, on this side


@pytest.mark.parametrize(
    "name",
    [
        "__class__", "__dict__", "__globals__", "__init__", "__getattribute__", "__reduce_ex__",
        "_agent", "exposed_hello", "exposed_get_service_name", "get_service_name", "METHODS",
        "on_connect", "_protocol", "_rpyc_getattr", "____conn__", "", "exposed_",
    ],
)  # fmt: skip
def test_no_walk_from_the_root(talk, name):
    """Nothing of the root but the methods can be had, by any way of asking."""
    root = talk.connection.root
    ask = talk.connection.sync_request
    for request in (
        (consts.HANDLE_GETATTR, root, name),
        (consts.HANDLE_GETATTR, root, name.encode()),
        (consts.HANDLE_CALLATTR, root, name, (), ()),
        (consts.HANDLE_SETATTR, root, name, 1),
        (consts.HANDLE_DELATTR, root, name),
        (consts.HANDLE_CMP, root, root, name),
    ):
        with pytest.raises(Exception, match=r"."):
            ask(*request)


@pytest.mark.parametrize(
    "name", ["__globals__", "__self__", "__func__", "__code__", "__class__", "__call__", "hello"]
)
def test_no_walk_from_a_method(talk, name):
    """A method is good for calling and leads nowhere."""
    method = talk.connection.root.hello
    with pytest.raises(AttributeError):
        talk.connection.sync_request(consts.HANDLE_GETATTR, method, name)


@pytest.mark.parametrize(
    "handler",
    [
        consts.HANDLE_REPR, consts.HANDLE_STR, consts.HANDLE_DIR, consts.HANDLE_HASH,
        consts.HANDLE_PICKLE, consts.HANDLE_BUFFITER, consts.HANDLE_OLDSLICING,
        consts.HANDLE_CTXEXIT, consts.HANDLE_INSTANCECHECK, 99, "x",
    ],
)  # fmt: skip
def test_other_requests_are_unknown(talk, handler):
    """The protocol has only the requests that calls need: no pickling, no listing of names."""
    with pytest.raises(Exception, match=r"."):
        talk.connection.sync_request(handler, talk.connection.root, 2)


def test_pickled_argument_is_bytes(talk):
    """A pickled object is only bytes to the agent, and is refused where text is due."""

    class Bomb:
        def __reduce__(self):
            return (os.system, ("touch /tmp/never",))

    assert "got bytes" in talk.failure("hello", pickle.dumps(Bomb())).message


def test_root_and_keywords_cannot_be_called(talk):
    """Only methods are called, and with places, not keywords."""
    root = talk.connection.root
    for request in (
        (consts.HANDLE_CALL, root, (), ()),
        (consts.HANDLE_CALL, root.trials, (), (("x", 1),)),
        (consts.HANDLE_CALLATTR, root, "trials", (), (("x", 1),)),
    ):
        with pytest.raises(TypeError):
            talk.connection.sync_request(*request)


def test_many_attribute_requests(talk, process):
    """Ten thousand refused requests cost the agent neither its life nor its memory."""
    before = resident_bytes(process.pid())
    root = (consts.LABEL_LOCAL_REF, talk.connection.root.____id_pack__)
    channel = talk.connection._channel
    for batch in range(100):
        for number in range(100):
            name = (consts.LABEL_VALUE, f"__{batch}_{number}__")
            ask = (consts.HANDLE_GETATTR, (consts.LABEL_TUPLE, (root, name)))
            channel.send(bytes([consts.MSG_REQUEST]) + brine.dump((number, ask)))
        refused = 0
        while refused < 100:  # rpyc's own letting go of references is answered in between
            refused += channel.recv()[0] == consts.MSG_EXCEPTION
    assert resident_bytes(process.pid()) - before < 20 << 20


def test_frees_what_peers_let_go(talk):
    """Made-up references, and letting go of what one never had, are refused."""
    for request in (
        (consts.HANDLE_DEL, 7),
        (consts.HANDLE_INSPECT, ("agent.service.AgentService", 1, 2)),
    ):
        with pytest.raises(Exception, match=r"."):
            talk.connection.sync_request(*request)


def message(kind, content):
    data = bytes([kind]) + content
    return HEAD.pack(len(data), 0) + data + b"\n"


@pytest.mark.parametrize(
    "attack",
    [
        b"GET / HTTP/1.1\r\nHost: x\r\n\r\n" * 100,
        HEAD.pack(0xFFFF_FFFF, 0),
        HEAD.pack(5 << 20, 0) + bytes(1000),
        HEAD.pack(10, 1) + bytes(11),
        HEAD.pack(0, 0) + b"\n",
        message(9, b""),
        message(consts.MSG_REQUEST, b"\xff\xff"),
        message(consts.MSG_REQUEST, b"\x10" * 200_000),
        message(consts.MSG_REQUEST, b"\x15\xff\xff\xff\xff"),
        message(consts.MSG_REQUEST, b"\x17\x00\x10\x00\x00" + b"9" * (1 << 20)),
        message(consts.MSG_REQUEST, brine.dump((1, (3, (9, 9))))),
        message(consts.MSG_REQUEST, brine.dump((1, (consts.HANDLE_CLOSE, (1, ()))))),
        message(consts.MSG_REPLY, brine.dump((1, (1, "unasked")))),
        message(consts.MSG_REPLY, brine.dump((1, (4, ("builtins.type", 1, 2))))),
        message(consts.MSG_EXCEPTION, brine.dump((1, (("os", "x"), (), (), "")))),
        os.urandom(5000),
    ],
    ids=[
        "http", "4 GiB", "over the cap", "compressed", "empty", "no such message", "no such tag",
        "deep", "tuple of 4 billion", "endless number", "bad label", "close", "unasked reply",
        "unasked reference", "unasked exception", "noise",
    ],
)  # fmt: skip
def test_garbage(talk, process, attack):
    """Whatever a peer sends, its own connection ends at worst, and the others go on."""
    before = resident_bytes(process.pid())
    sock = process.connect()
    sock.settimeout(10)
    try:
        sock.sendall(attack)
        sock.shutdown(socket.SHUT_WR)
        while sock.recv(1 << 16):
            pass
    except ConnectionError:
        pass
    finally:
        sock.close()
    assert resident_bytes(process.pid()) - before < 40 << 20
    assert talk.hello().protocol == wire.PROTOCOL


def test_errors_carry_no_insides(talk):
    """A refused request shows no file names and no code of the agent's."""
    with pytest.raises(AttributeError) as caught:
        talk.connection.sync_request(consts.HANDLE_GETATTR, talk.connection.root, "__class__")
    assert ".py" not in str(caught.value)


def resident_bytes(pid):
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")
