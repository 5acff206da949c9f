"""Keeps foreign libraries off the screen: what they print or log goes to our log."""

from __future__ import annotations

import contextlib
import logging
import sys
import threading
import warnings
from collections.abc import Callable, Iterator
from typing import IO, Any

import onnxruntime

_SILENT = 4  # fatal: everything else that ONNX Runtime has to say is in its exceptions
_WARNING = 2  # ONNX Runtime's default
_lock = threading.RLock()


Log = Callable[[str], None]


class _Say:
    """Our own log, which may print or log itself: what it says is not caught again."""

    def __init__(self, log: Log) -> None:
        self._log = log
        self._owner = threading.get_ident()
        self._busy = False

    def __call__(self, text: str) -> None:
        self._busy = True
        try:
            self._log(text)
        finally:
            self._busy = False

    def catches(self, thread: int | None) -> bool:
        """True for what a foreign library says in the owning thread."""
        return thread == self._owner and not self._busy


class _Screen:
    """Stands in for sys.stdout: foreign lines of the owning thread are logged, others printed."""

    def __init__(self, real: IO[str], say: _Say) -> None:
        self._real = real
        self._say = say
        self._partial = ""

    def write(self, text: str) -> int:
        if not self._say.catches(threading.get_ident()):
            return self._real.write(text)
        *lines, self._partial = (self._partial + text).split("\n")
        for line in lines:
            if line.strip():
                self._say(line.rstrip())
        return len(text)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._real, name)


class _Handler(logging.Handler):
    """Logs foreign warnings and errors of the owning thread."""

    def __init__(self, say: _Say) -> None:
        super().__init__(logging.WARNING)
        self._say = say

    def emit(self, record: logging.LogRecord) -> None:
        if self._say.catches(record.thread):
            self._say(record.getMessage())


@contextlib.contextmanager
def quiet(log: Log) -> Iterator[Log]:
    """Route this thread's prints, log records and warnings to `log` while inside.

    Yields the log to use there, which may itself print. Other threads (a dashboard) keep the
    screen. One thread of a process at a time.
    """
    say = _Say(log)
    handler = _Handler(say)
    with _lock, warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        root = logging.getLogger()
        root.addHandler(handler)
        real = sys.stdout
        sys.stdout = _Screen(real, say)
        onnxruntime.set_default_logger_severity(_SILENT)
        try:
            yield say
        finally:
            onnxruntime.set_default_logger_severity(_WARNING)
            sys.stdout = real
            root.removeHandler(handler)
            for text in dict.fromkeys(f"{w.category.__name__}: {w.message}" for w in caught):
                log(text)
