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


class _Screen:
    """Stands in for sys.stdout: the owning thread's lines are logged, others' are printed."""

    def __init__(self, real: IO[str], log: Callable[[str], None]) -> None:
        self._real = real
        self._log = log
        self._owner = threading.get_ident()
        self._partial = ""

    def write(self, text: str) -> int:
        if threading.get_ident() != self._owner:
            return self._real.write(text)
        *lines, self._partial = (self._partial + text).split("\n")
        for line in lines:
            if line.strip():
                self._log(line.rstrip())
        return len(text)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._real, name)


class _Handler(logging.Handler):
    """Logs the records of the thread that made it."""

    def __init__(self, log: Callable[[str], None]) -> None:
        super().__init__()
        self._log = log
        self._owner = threading.get_ident()

    def emit(self, record: logging.LogRecord) -> None:
        if record.thread == self._owner and record.levelno >= logging.WARNING:
            self._log(record.getMessage())


@contextlib.contextmanager
def quiet(log: Callable[[str], None]) -> Iterator[None]:
    """Route this thread's prints, log records and warnings to `log` while inside.

    Other threads (a dashboard) keep the screen. One thread of a process at a time.
    """
    handler = _Handler(log)
    with _lock, warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        root = logging.getLogger()
        root.addHandler(handler)
        real = sys.stdout
        sys.stdout = _Screen(real, log)
        onnxruntime.set_default_logger_severity(_SILENT)
        try:
            yield
        finally:
            onnxruntime.set_default_logger_severity(_WARNING)
            sys.stdout = real
            root.removeHandler(handler)
            for text in dict.fromkeys(f"{w.category.__name__}: {w.message}" for w in caught):
                log(text)
