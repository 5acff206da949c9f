"""A builder on a Dask cluster. Dask carries the conversation; the worker's Python builds.

Each part of it is a task on one and the same worker, whose folder keeps what was sent and made.
"""

from __future__ import annotations

import io
import os
import secrets
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any, Final

from models.chain import VariantRequest
from models.errors import BuilderLost, ExtraMissing
from models.remote.client import BuilderClient, Log, Result
from models.remote.frames import READY
from models.store import ArtifactStore
from orchestrator.builders.code import STARTER, Code
from orchestrator.builders.entry import BuilderEntry

CONNECT_TIMEOUT_S: Final = 20.0


class Cluster:
    """The workers of a scheduler, each with a conversation of its own."""

    def __init__(self, client: Any, entry: BuilderEntry) -> None:
        self._client = client
        self._entry = entry
        self._workers: list[str] = sorted(client.scheduler_info(n_workers=-1)["workers"])
        if not self._workers:
            raise BuilderLost(f"builder {entry.name}: the cluster has no workers")

    def build_many(
        self, requests: Sequence[VariantRequest], store: ArtifactStore, workers: int, log: Log
    ) -> list[Result]:
        """As models.build.build_many; the variants of one model go to one worker."""
        topic = f"orchestrator-{secrets.token_hex(6)}"
        self._client.subscribe_topic(topic, lambda event: log(str(event[1])[:1000]))
        parts = self._parts(requests)
        results: dict[int, Result] = {}

        def work(worker: str, indices: list[int]) -> None:
            stream = _Exchange(self._client, worker, self._entry.home, topic)
            client = BuilderClient(stream, stream.said, self._entry.paths)  # type: ignore[arg-type]
            chosen = [requests[index] for index in indices]
            made = client.build_many(chosen, store, workers, lambda _line: None)
            results.update(zip(indices, made, strict=True))

        try:
            with ThreadPoolExecutor(len(parts)) as pool:
                for done in [pool.submit(work, *part) for part in parts.items()]:
                    done.result()
        finally:
            self._client.unsubscribe_topic(topic)
        return [results[index] for index in range(len(requests))]

    def _parts(self, requests: Sequence[VariantRequest]) -> dict[str, list[int]]:
        """Which requests go where: what shares a beginning is built by one worker."""
        parts: dict[str, list[int]] = {}
        models: dict[str, str] = {}
        for index, request in enumerate(requests):
            turn = len(models) % len(self._workers)
            worker = models.setdefault(request.model.name, self._workers[turn])
            parts.setdefault(worker, []).append(index)
        return parts


class _Exchange(io.RawIOBase):
    """Reads as the builder's answers: what was said since the last is a task on the worker."""

    def __init__(self, client: Any, worker: str, home: str, topic: str) -> None:
        super().__init__()
        self.said = io.BytesIO()
        self._answers = io.BytesIO()
        self._client = client
        self._worker = worker
        self._home = home
        self._topic = topic
        self._code = Code.of_this_version()
        self._archive = client.scatter(self._code.archive, workers=[worker], hash=False)

    def readable(self) -> bool:
        """Always."""
        return True

    def read(self, size: int = -1) -> bytes:
        """The next bytes of the answers; asks the worker where there are none left."""
        piece = self._answers.read(size)
        if piece or not self.said.tell():
            return piece
        from orchestrator.builders import farmhand  # noqa: PLC0415 - only here is it sent

        said = self.said.getvalue()
        self.said.seek(0)
        self.said.truncate()
        words = (self._archive, self._code.digest[:16], STARTER, self._home, said, self._topic)
        future = self._client.submit(
            farmhand.converse, *words, workers=[self._worker], pure=False, retries=0
        )
        try:
            answered = future.result()
        except Exception as exc:
            raise BuilderLost(f"worker {self._worker}: {exc}") from exc
        if not answered.startswith(READY):
            raise BuilderLost(f"worker {self._worker}: no builder answered")
        self._answers = io.BytesIO(answered[len(READY) :])
        return self._answers.read(size)


@contextmanager
def opened(entry: BuilderEntry) -> Iterator[Cluster]:
    """The cluster at the entry's address; raises BuilderLost, ExtraMissing."""
    try:
        import cloudpickle  # noqa: PLC0415 - an optional package
        from distributed import Client  # noqa: PLC0415 - as above
        from distributed.security import Security  # noqa: PLC0415 - as above
    except ImportError as exc:
        raise ExtraMissing(
            f"builder {entry.name}: a Dask cluster needs the extra `dask`: "
            "python -m pip install 'edge-orchestrator[dask]' (in a checkout: '.[dask]')"
        ) from exc
    from orchestrator.builders import farmhand  # noqa: PLC0415 - as above

    cloudpickle.register_pickle_by_value(farmhand)
    try:
        security = None
        if entry.address.startswith("tls://"):
            files = {"tls_ca_file": entry.ca, "tls_client_cert": entry.cert}
            files["tls_client_key"] = entry.key
            given = {name: os.fspath(path) for name, path in files.items() if path is not None}
            security = Security(require_encryption=True, **given)
        client = Client(entry.address, security=security, timeout=CONNECT_TIMEOUT_S)
    except Exception as exc:  # OSError, TypeError and ssl's own, by what is wrong
        raise BuilderLost(
            f"builder {entry.name}: {entry.address}: {exc or type(exc).__name__}; a tls:// cluster "
            "needs `ca:`, `cert:` and `key:` in the inventory, or Dask's own configuration"
        ) from exc
    try:
        yield Cluster(client, entry)
    finally:
        client.close()
        cloudpickle.unregister_pickle_by_value(farmhand)
