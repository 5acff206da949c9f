"""The code that a builder runs: this version's, as one archive that its digest names."""

from __future__ import annotations

import gzip
import hashlib
import io
import tarfile
from dataclasses import dataclass
from functools import cache
from typing import Final

from models.remote.client import code_files

STARTER: Final = (
    "import os, sys; sys.path.insert(0, sys.argv.pop(1)); "
    "os.environ.setdefault('ORT_DISABLE_TELEMETRY', '1'); "
    "from models.remote.worker import main; main()"
)
"""Run by the builder's Python with the code's folder, the home and `watch` as arguments.

Without that variable onnxruntime leaves a device id and a database in ~/.cache at its first import.
"""


@dataclass(frozen=True)
class Code:
    """A gzipped tar archive, the same bytes for the same code."""

    digest: str
    archive: bytes

    @staticmethod
    @cache
    def of_this_version() -> Code:
        """What this host would run itself."""
        plain = io.BytesIO()
        with tarfile.open(fileobj=plain, mode="w") as archive:
            for name, path in code_files().items():
                data = path.read_bytes()
                info = tarfile.TarInfo(name)
                info.size, info.mode = len(data), 0o600
                archive.addfile(info, io.BytesIO(data))
        digest = hashlib.sha256(plain.getvalue()).hexdigest()
        return Code(digest, gzip.compress(plain.getvalue(), mtime=0))
