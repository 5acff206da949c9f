"""The far end of a link, by hand: it speaks rpyc's frames and misbehaves where a test says so."""

from __future__ import annotations

import contextlib
import socket
import subprocess
import threading
from collections.abc import Callable, Iterator
from typing import Any

from rpyc.core import brine, consts
from rpyc.core.channel import Channel

from orchestrator.boards.link import LastWords, ProcessLink

_HEADER = Channel.FRAME_HEADER


class Peer:
    """Answers as an agent does until a method is called; what happens then is `on_call`'s."""

    def __init__(self, sock: socket.socket, on_call: Callable[[Peer, int], None]) -> None:
        self.sock = sock
        self._on_call = on_call
        self.thread = threading.Thread(target=self._run, daemon=True)
        self.thread.start()

    def _run(self) -> None:
        with contextlib.suppress(OSError, EOFError), self.sock:
            while True:
                seq, handler = self._request()
                if handler in (consts.HANDLE_GETROOT, consts.HANDLE_GETATTR):
                    self.reply(seq, consts.LABEL_REMOTE_REF, (f"an.Object{seq}", seq, seq))
                elif handler == consts.HANDLE_INSPECT:
                    self.reply(seq, consts.LABEL_VALUE, (("__call__", ""),))
                elif handler in (consts.HANDLE_CALL, consts.HANDLE_CALLATTR):
                    self._on_call(self, seq)

    def _request(self) -> tuple[int, int]:
        """(number, handler) of the next request; other messages are passed over."""
        while True:
            length, _ = _HEADER.unpack(self._read(_HEADER.size))
            frame = self._read(length + 1)[:-1]
            if frame[0] == consts.MSG_REQUEST:
                seq, (handler, _) = brine.load(frame[1:])
                return seq, handler

    def _read(self, count: int) -> bytes:
        data = b""
        while len(data) < count:
            piece = self.sock.recv(count - len(data))
            if not piece:
                raise EOFError
            data += piece
        return data

    def send(self, message: int, seq: int, body: Any) -> None:
        self.frame(bytes([message]) + brine.dump((seq, body)))

    def frame(self, data: bytes, *, length: int | None = None, compressed: int = 0) -> None:
        head = _HEADER.pack(len(data) if length is None else length, compressed)
        self.sock.sendall(head + data + b"\n")

    def reply(self, seq: int, label: int, value: Any) -> None:
        self.send(consts.MSG_REPLY, seq, (label, value))

    def throw(self, seq: int, module: str, name: str, attributes: Any = ()) -> None:
        """Answer with an exception of that name, as rpyc carries it."""
        self.send(consts.MSG_EXCEPTION, seq, ((module, name), ("boo",), attributes, "a traceback"))


@contextlib.contextmanager
def linked(on_call: Callable[[Peer, int], None], call_timeout_s: float) -> Iterator[ProcessLink]:
    """A link to a Peer, beside a process that has nothing to do with it but is the link's own."""
    ours, theirs = socket.socketpair()
    peer = Peer(theirs, on_call)
    process = subprocess.Popen(["sleep", "60"], stderr=subprocess.PIPE, start_new_session=True)
    link = ProcessLink(process, ours, "pi", LastWords(process), call_timeout_s)
    try:
        yield link
    finally:
        link.close()
        assert process.returncode is not None, "the link left its process behind"
        peer.thread.join(5)
        assert not peer.thread.is_alive()
