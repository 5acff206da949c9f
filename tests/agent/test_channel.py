import socket
import struct
import threading
import zlib

import pytest
from rpyc.core.channel import Channel
from rpyc.core.stream import SocketStream

from agent.wire import MAX_FRAME_BYTES
from agent.wire.channel import CappedChannel, FrameRefused

HEAD = struct.Struct("!LB")
SOON = struct.pack("@ll", 0, 50_000)
"""50 ms as SO_RCVTIMEO takes it."""


@pytest.fixture
def ends():
    """A capped channel and the raw socket at its far end."""
    ours, theirs = socket.socketpair()
    theirs.settimeout(10)
    channel = CappedChannel(SocketStream(ours))
    yield channel, theirs
    channel.close()
    theirs.close()


@pytest.mark.parametrize("size", [0, 1, 63_999, 64_000, 1 << 20, MAX_FRAME_BYTES])
def test_frames_arrive(ends, size):
    """A frame of any allowed size arrives as it was sent."""
    ours, theirs = ends
    far = CappedChannel(SocketStream(theirs))
    data = bytes(range(256)) * (size // 256) + bytes(size % 256)
    sender = threading.Thread(target=ours.send, args=(data,))
    sender.start()
    assert bytes(far.recv()) == data
    sender.join()


def test_speaks_with_rpyc(ends):
    """Frames are rpyc's own, in both directions."""
    ours, theirs = ends
    plain = Channel(SocketStream(theirs), compress=False)
    ours.send(b"from us")
    assert plain.recv() == b"from us"
    plain.send(b"from them")
    assert bytes(ours.recv()) == b"from them"


def test_too_long_is_refused_before_it_is_allocated(ends, monkeypatch):
    """The announced length is looked at before memory is taken, and the connection is over."""
    ours, theirs = ends
    asked = []
    read = CappedChannel._read
    monkeypatch.setattr(
        CappedChannel, "_read", lambda self, count: asked.append(count) or read(self, count)
    )
    theirs.sendall(HEAD.pack(0xFFFF_FFFF, 0))
    with pytest.raises(FrameRefused, match="4294967295"):
        ours.recv()
    assert asked == [HEAD.size]
    assert ours.closed
    assert theirs.recv(1) == b""


def test_compressed_is_refused(ends):
    """A compressed frame could unfold to any size, so none is inflated."""
    ours, theirs = ends
    packed = zlib.compress(bytes(1000))
    theirs.sendall(HEAD.pack(len(packed), 1) + packed + b"\n")
    with pytest.raises(FrameRefused, match="compressed"):
        ours.recv()


def test_never_sends_too_much(ends):
    """What the other side would refuse is not sent."""
    ours, _theirs = ends
    with pytest.raises(ValueError, match="at most"):
        ours.send(bytes(MAX_FRAME_BYTES + 1))


@pytest.mark.parametrize("sent", [b"", HEAD.pack(100, 0)[:3], HEAD.pack(100, 0) + b"half"])
def test_peer_is_gone(ends, sent):
    """A peer that hangs up in the middle of a frame is an end of file, not a wait."""
    ours, theirs = ends
    theirs.sendall(sent)
    theirs.shutdown(socket.SHUT_WR)
    with pytest.raises(EOFError):
        ours.recv()
    assert ours.closed
    with pytest.raises(EOFError):
        ours.recv()
    with pytest.raises(EOFError):
        ours.send(b"x")


def test_peer_stalls(ends):
    """A peer that pauses for longer than the socket allows is given up."""
    ours, theirs = ends
    ours.stream.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, SOON)
    theirs.sendall(HEAD.pack(100, 0))
    with pytest.raises(EOFError):
        ours.recv()


def test_peer_does_not_read(ends):
    """A peer that does not read is given up."""
    ours, _theirs = ends
    ours.stream.sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, SOON)
    with pytest.raises(EOFError):
        ours.send(bytes(MAX_FRAME_BYTES))
