"""Runs builds in processes of their own, and says which one failed.

A build needs gigabytes and may be killed for it; its process is then gone, the others go on.
"""

from __future__ import annotations

import concurrent.futures as cf
import contextlib
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from agent.wire import BenchError
from models.errors import BuildFailed
from models.orphan import end_with_parent

if TYPE_CHECKING:
    from models.chain import VariantRequest
    from models.store import Artifact

    Result = Artifact | BenchError
    Work = Callable[[VariantRequest, Callable[[str], None]], Result]


_LISTENER_PATIENCE_S = 10.0
"""A build process that was killed within a line leaves its listener waiting for the rest."""


@dataclass(frozen=True)
class Job:
    """A build: its chain of steps as comparable text, its name for messages, its request.

    `long` are the beginnings of the chain that end in a step that takes long and is not done yet.
    """

    chain: tuple[str, ...]
    label: str
    request: VariantRequest
    long: frozenset[tuple[str, ...]] = frozenset()


def run_jobs(
    jobs: Sequence[Job], work: Work, workers: int, on_log: Callable[[str], None]
) -> dict[tuple[str, ...], Result]:
    """Results by chain. `work` has to be picklable; `on_log` is called in this process.

    A job whose chain begins with another job's whole chain starts after it, and so does one that
    needs the long step of a running job: it would only wait for it. When a process
    dies, the jobs it may have taken with it run again, one at a time in a process each, so
    that only the guilty one fails.
    """
    ordered = sorted(jobs, key=lambda job: len(job.chain))
    if len(ordered) <= 1 or workers <= 1:
        return {job.chain: work(job.request, on_log) for job in ordered}
    results: dict[tuple[str, ...], Result] = {}
    with _listener(on_log) as (queue, pids):
        _run_pool(ordered, work, min(workers, len(ordered)), queue, pids, results)
        for job in ordered:
            if job.chain not in results:
                on_log(f"{job.label}: again, alone: a build process died")
                _run_pool([job], work, 1, queue, pids, results)
            if job.chain not in results:
                results[job.chain] = BuildFailed(
                    f"{job.label}: the build process died (killed, or out of memory); "
                    "free some memory or calibrate with fewer images"
                )
    return results


def _run_pool(
    jobs: Sequence[Job],
    work: Work,
    workers: int,
    queue: Any,
    pids: set[int],
    results: dict[tuple[str, ...], Result],
) -> None:
    """Run jobs until all have results, or until a process of the pool died."""
    waiting = list(jobs)
    running: dict[cf.Future[Result], Job] = {}
    executor = cf.ProcessPoolExecutor(
        workers,
        mp_context=multiprocessing.get_context("spawn"),
        initializer=_start_worker,
        initargs=(queue, os.getpid(), max(1, (os.cpu_count() or 1) // workers)),
    )
    try:
        while waiting or running:
            for job in list(waiting):
                shared = any(job.long & other.long for other in running.values())
                if shared or _blocked(job, [*waiting, *running.values()]):
                    continue
                waiting.remove(job)
                running[executor.submit(_in_worker, work, job.request)] = job
            done, _ = cf.wait(running, return_when=cf.FIRST_COMPLETED)
            for future in done:
                job = running.pop(future)
                results[job.chain] = future.result()
    except BrokenProcessPool:
        return
    except BaseException:
        for process in multiprocessing.active_children():
            if process.pid in pids:
                process.terminate()
        raise
    finally:
        executor.shutdown(wait=True, cancel_futures=True)
        pids.clear()


def _blocked(job: Job, others: Sequence[Job]) -> bool:
    """True while the job's own beginning is still being built as another job."""
    return any(
        len(other.chain) < len(job.chain) and job.chain[: len(other.chain)] == other.chain
        for other in others
    )


@contextlib.contextmanager
def _listener(on_log: Callable[[str], None]) -> Iterator[tuple[Any, set[int]]]:
    """A queue for the workers' log lines and process ids, and the set of the latter."""
    queue = multiprocessing.get_context("spawn").SimpleQueue()
    pids: set[int] = set()

    def listen() -> None:
        while (message := queue.get()) is not None:
            if isinstance(message, int):
                pids.add(message)
            else:
                on_log(message)

    thread = threading.Thread(target=listen, name="build-log", daemon=True)
    thread.start()
    try:
        yield queue, pids
    finally:
        queue.put(None)
        thread.join(_LISTENER_PATIENCE_S)
        queue.close()


_queue: Any = None


def _start_worker(queue: Any, parent: int, threads: int) -> None:
    """In a new worker: leave Ctrl-C to the parent, and end when the parent is gone.

    Workers that each took every core would wait for one another: they share them, unless
    OMP_NUM_THREADS says otherwise. torch reads it when it is imported, which is later.
    """
    global _queue  # noqa: PLW0603 - a pool's initializer has no other way to hand things over
    _queue = queue
    os.environ.setdefault("OMP_NUM_THREADS", str(threads))
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    end_with_parent(parent)
    queue.put(os.getpid())


def _in_worker(work: Work, request: VariantRequest) -> Result:
    return work(request, _queue.put)
