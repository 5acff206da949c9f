"""rpyc's frames, capped before memory is allocated and never compressed; both sides use it.

The only module of agent.wire that needs rpyc; import it by its own name.
"""

from __future__ import annotations

import socket
from typing import Any, Final

from rpyc.core.channel import Channel

from agent.wire.base import MAX_FRAME_BYTES

_TAIL: Final = memoryview(b"\n")
"""rpyc ends each frame so."""


class FrameRefused(EOFError):
    """The peer sent what is not a frame of ours; EOFError makes rpyc close the connection."""


class CappedChannel(Channel):  # type: ignore[misc] # rpyc ships no types
    """A channel over a stream with a socket (rpyc's SocketStream).

    rpyc's own allocates up to 4 GiB at a peer's word and inflates what is marked compressed.
    Reading into one buffer and writing without slices is also several times faster.
    """

    __slots__ = ()

    def __init__(self, stream: Any) -> None:
        super().__init__(stream, compress=False)

    def recv(self) -> memoryview:
        """One frame; raises FrameRefused, or EOFError when the peer is gone or stalls."""
        head = self._read(self.FRAME_HEADER.size)
        length, compressed = self.FRAME_HEADER.unpack(head)
        if compressed or length > MAX_FRAME_BYTES:
            self.close()
            what = "a compressed frame" if compressed else f"a frame of {length} bytes"
            raise FrameRefused(f"the peer sent {what}; at most {MAX_FRAME_BYTES} are accepted")
        frame = self._read(length + len(_TAIL))
        return frame[:length]

    def send(self, data: bytes) -> None:
        """Send one frame; raises EOFError when the peer is gone or does not read."""
        if len(data) > MAX_FRAME_BYTES:
            raise ValueError(f"a frame of {len(data)} bytes; at most {MAX_FRAME_BYTES} may be sent")
        rest = [memoryview(self.FRAME_HEADER.pack(len(data), 0)), memoryview(data), _TAIL]
        try:
            sock = self.stream.sock
            while rest:
                sent = sock.sendmsg(rest)
                while rest and sent >= len(rest[0]):
                    sent -= len(rest.pop(0))
                if rest:
                    rest[0] = rest[0][sent:]
        except OSError as exc:
            self.close()
            raise EOFError(f"the peer is gone: {exc}") from exc

    def _read(self, count: int) -> memoryview:
        buffer = memoryview(bytearray(count))
        have = 0
        try:
            sock = self.stream.sock
            while have < count:
                got = sock.recv_into(buffer[have:], 0, socket.MSG_WAITALL)
                if not got:
                    raise EOFError("connection closed by peer")
                have += got
        except OSError as exc:
            self.close()
            raise EOFError(f"the peer is gone: {exc}") from exc
        except EOFError:
            self.close()
            raise
        return buffer
