import errno
import hashlib
import os
import stat
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent import artifacts
from agent.artifacts import STALE_PART_S, Artifacts
from agent.errors import Refused
from agent.wire import CHUNK_BYTES, FailureKind

DATA = bytes(range(250)) * 4
SHA = hashlib.sha256(DATA).hexdigest()


@pytest.fixture
def store(tmp_path):
    return Artifacts(tmp_path / "artifacts")


def refused(call, *args):
    with pytest.raises(Refused) as caught:
        call(*args)
    return caught.value.failure


def put_all(store, data, size=300):
    sha = hashlib.sha256(data).hexdigest()
    for offset in range(0, len(data), size):
        last = store.put(sha, offset, len(data), data[offset : offset + size])
    return last


def test_arrives_in_chunks(store):
    """A file gets its name when all of its bytes are here and right, not before."""
    path = store.directory / SHA
    assert not store.put(SHA, 0, 1000, DATA[:600]).complete
    assert not path.exists()
    assert store.has([SHA]).partial_bytes == {SHA: 600}
    put = store.put(SHA, 600, 1000, DATA[600:])
    assert (put.complete, put.received_bytes) == (True, 1000)
    assert path.read_bytes() == DATA
    assert store.has([SHA]).complete == (SHA,)
    assert store.size_bytes(SHA) == 1000


def test_goes_on_after_a_restart(store):
    """A cut push goes on where it stopped, also in another process of the agent."""
    store.put(SHA, 0, 1000, DATA[:600])
    again = Artifacts(store.directory)
    assert again.has([SHA]).partial_bytes == {SHA: 600}
    assert again.put(SHA, 600, 1000, DATA[600:]).complete


def test_complete_already(store):
    """A file that is here is not written again, whatever is sent."""
    put_all(store, DATA)
    put = store.put(SHA, 0, 5, b"other")
    assert (put.complete, put.received_bytes) == (True, 1000)
    assert (store.directory / SHA).read_bytes() == DATA


def test_empty_file(store):
    """A file without bytes is complete with its first, empty chunk."""
    assert store.put(hashlib.sha256(b"").hexdigest(), 0, 0, b"").complete


def test_all_bytes_but_no_name(store):
    """A part whose last chunk was written before a crash is completed by an empty chunk."""
    (store.directory / f"{SHA}.part").write_bytes(DATA)
    assert store.put(SHA, 1000, 1000, b"").complete


@pytest.mark.parametrize(
    "name",
    ["", "ab", "g" * 64, SHA.upper(), SHA[:-1], SHA + "0", SHA + "\n", "../" + SHA, "/" + SHA[1:]],
)
def test_names(store, name):
    """Nothing but 64 lower-case hexadecimal digits touches a path."""
    assert refused(store.put, name, 0, 4, b"data").kind is FailureKind.BAD_REQUEST
    assert refused(store.has, [name]).kind is FailureKind.BAD_REQUEST
    assert list(store.directory.parent.iterdir()) == [store.directory]
    assert list(store.directory.iterdir()) == []


@pytest.mark.parametrize(
    ("offset", "total", "size"),
    [(-1, 1000, 5), (0, 4, 5), (999, 1000, 2), (0, -1, 0), (0, 1 << 30, CHUNK_BYTES + 1)],
)
def test_bytes_that_do_not_fit(store, offset, total, size):
    """A chunk must lie within its file and be no larger than a chunk."""
    assert refused(store.put, SHA, offset, total, bytes(size)).kind is FailureKind.BAD_REQUEST
    assert list(store.directory.iterdir()) == []


@pytest.mark.parametrize("offset", [0, 300, 601])
def test_gap_or_overlap(store, offset):
    """A chunk that does not continue the file is refused, and the file can still be completed."""
    store.put(SHA, 0, 1000, DATA[:600])
    failure = refused(store.put, SHA, offset, 1000, DATA[:5])
    assert failure.kind is FailureKind.BAD_REQUEST
    assert "600 bytes" in failure.message
    assert store.put(SHA, 600, 1000, DATA[600:]).complete


def test_wrong_bytes(store):
    """Bytes with another digest are deleted, and the file can be pushed again."""
    wrong = bytes([DATA[0] ^ 1]) + DATA[1:]
    failure = refused(store.put, SHA, 0, 1000, wrong)
    assert failure.kind is FailureKind.DIGEST_MISMATCH
    assert list(store.directory.iterdir()) == []
    assert put_all(store, DATA).complete


def test_part_flipped_on_disk(store):
    """A bit that flipped in a part between two processes of the agent is noticed."""
    store.put(SHA, 0, 1000, DATA[:600])
    part = store.directory / f"{SHA}.part"
    part.write_bytes(bytes([DATA[0] ^ 1]) + DATA[1:600])
    again = Artifacts(store.directory)
    assert refused(again.put, SHA, 600, 1000, DATA[600:]).kind is FailureKind.DIGEST_MISMATCH


def test_part_is_too_long(store):
    """A part longer than the file is dropped instead of blocking it for ever."""
    (store.directory / f"{SHA}.part").write_bytes(DATA + b"more")
    assert refused(store.put, SHA, 1000, 1000, b"").kind is FailureKind.DIGEST_MISMATCH
    assert put_all(store, DATA).complete


def test_reserve(tmp_path):
    """A push that would eat the reserve is refused before it writes, with both figures."""
    store = Artifacts(tmp_path / "a", reserve_bytes=500, free=lambda _: 1499)
    failure = refused(store.put, SHA, 0, 1000, DATA[:10])
    assert failure.kind is FailureKind.DISK_FULL
    assert "1000 bytes are needed" in failure.message
    assert "1499 are free" in failure.message
    assert list(store.directory.iterdir()) == []


def test_only_what_is_missing_counts(tmp_path):
    """What has arrived needs no room again."""
    free = [10_000]
    store = Artifacts(tmp_path / "a", reserve_bytes=500, free=lambda _: free[0])
    store.put(SHA, 0, 1000, DATA[:900])
    free[0] = 600
    assert store.put(SHA, 900, 1000, DATA[900:]).complete


def test_limit(tmp_path):
    """The sum of all artifacts is limited, over restarts and dropped files too."""
    store = Artifacts(tmp_path / "a", limit_bytes=1500, holder=lambda: "run-1")
    refused(store.put, SHA, 0, 1000, bytes(1000))
    put_all(store, DATA)
    again = Artifacts(tmp_path / "a", limit_bytes=1500, holder=lambda: "run-1")
    again.keep([SHA])
    for one in (store, again):
        failure = refused(one.put, "0" * 64, 0, 501, b"x")
        assert failure.kind is FailureKind.DISK_FULL
        assert "1500 bytes" in failure.message
    assert not store.put("0" * 64, 0, 500, b"x").complete


def test_disk_fills_up_in_a_chunk(store, monkeypatch):
    """A chunk that does not fit is taken back, so that the push can go on later."""
    store.put(SHA, 0, 1000, DATA[:600])
    real = os.write
    calls = []

    def short(fd, data):
        calls.append(len(data))
        if len(calls) == 1:
            return real(fd, data[:50])
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "write", short)
    failure = refused(store.put, SHA, 600, 1000, DATA[600:])
    assert failure.kind is FailureKind.DISK_FULL
    monkeypatch.setattr(os, "write", real)
    assert calls == [400, 350]
    assert store.has([SHA]).partial_bytes == {SHA: 600}
    assert store.put(SHA, 600, 1000, DATA[600:]).complete


def test_name_comes_after_the_bytes_are_safe(store, monkeypatch):
    """The bytes are forced to the disk before the file gets its name, the name afterwards."""
    steps = []
    real = os.fsync

    def spy(fd):
        kind = "dir" if stat.S_ISDIR(os.fstat(fd).st_mode) else "file"
        steps.append((kind, [path.name for path in store.directory.iterdir()]))
        real(fd)

    monkeypatch.setattr(os, "fsync", spy)
    put_all(store, DATA)
    assert steps == [("file", [f"{SHA}.part"]), ("dir", [SHA])]


def test_no_call_writes_for_long(store, monkeypatch):
    """A large file goes to the disk as it arrives, not all at its end."""
    synced = []
    monkeypatch.setattr(artifacts, "_SYNC_BYTES", 400)
    monkeypatch.setattr(os, "fdatasync", synced.append)
    put_all(store, DATA * 2, size=200)
    assert len(synced) == 4


def test_store_is_private(store):
    """Other accounts cannot read the models."""
    assert store.directory.stat().st_mode & 0o777 == 0o700


@given(cuts=st.lists(st.integers(0, 1000), max_size=6), restarts=st.sets(st.integers(0, 7)))
def test_any_chunks(tmp_path_factory, cuts, restarts):
    """However a file is cut and however often the agent restarts, it arrives whole."""
    store = Artifacts(tmp_path_factory.mktemp("any") / "a")
    edges = sorted({0, 1000, *cuts})
    for number, (start, end) in enumerate(pairwise(edges)):
        if number in restarts:
            store = Artifacts(store.directory)
        put = store.put(SHA, start, 1000, DATA[start:end])
    assert put.complete
    assert (store.directory / SHA).read_bytes() == DATA


# ---------------------------------------------------------------- what goes when room is short


class Cache:
    """A store of at most 3,000 bytes, filled with files of 1,000, and who has the lease."""

    def __init__(self, directory):
        self.run = None
        self.store = Artifacts(directory, limit_bytes=3000, holder=lambda: self.run)
        self.moment = 1_000_000.0

    def add(self, seed):
        """A file used later than all before; its digest."""
        data = bytes([seed]) * 1000
        assert put_all(self.store, data).complete
        sha = hashlib.sha256(data).hexdigest()
        self.used(sha)
        return sha

    def used(self, *digests):
        for sha in digests:
            self.moment += 10
            os.utime(self.store.directory / sha, (self.moment, self.moment))

    def names(self):
        return {path.name for path in self.store.directory.iterdir()}


@pytest.fixture
def cache(tmp_path):
    return Cache(tmp_path / "cache")


def test_least_recently_used_goes(cache):
    """A file that does not fit takes the place of the one that was used longest ago."""
    first, second, third = (cache.add(seed) for seed in range(3))
    cache.used(first)
    fourth = cache.add(3)
    assert cache.names() == {first, third, fourth}
    assert cache.store.has([second]).complete == ()


def test_asking_is_using(cache):
    """To be asked for makes a file the last to go."""
    first, second, third = (cache.add(seed) for seed in range(3))
    cache.store.has([first])
    fourth = cache.add(3)
    assert cache.names() == {first, third, fourth}
    assert second not in cache.names()


def test_never_what_the_lease_uses(cache):
    """What the run with the lease has pushed, asked for or started stays, and a push is refused."""
    first = cache.add(0)
    second = cache.add(1)
    cache.run = "run-1"
    cache.store.has([first])
    cache.store.keep([second])
    third = cache.add(2)
    failure = refused(cache.store.put, "0" * 64, 0, 1000, b"x")
    assert failure.kind is FailureKind.DISK_FULL
    assert "3000 of at most 3000 bytes, which this run uses" in failure.message
    assert cache.names() == {first, second, third}


def test_the_next_run_may_have_the_room(cache):
    """When another run has the lease, files of the run before may go."""
    cache.run = "run-1"
    first, second, third = (cache.add(seed) for seed in range(3))
    cache.run = "run-2"
    cache.store.has([first])
    fourth = cache.add(3)
    assert cache.names() == {first, third, fourth}
    assert second not in cache.names()


def test_nothing_goes_in_vain(cache):
    """A file that would not fit into the empty store either makes nothing go."""
    kept = {cache.add(seed) for seed in range(3)}
    refused(cache.store.put, "0" * 64, 0, 3001, b"x")
    assert cache.names() == kept


def test_the_reserve_is_made_free(tmp_path):
    """Files go for the disk's sake too, not only for the store's own limit."""
    directory = tmp_path / "a"

    def free(_):
        return 1500 - sum(path.stat().st_size for path in directory.iterdir())

    store = Artifacts(directory, reserve_bytes=400, free=free)
    put_all(store, DATA)
    other = bytes(1000)
    assert put_all(store, other).complete
    assert [path.name for path in directory.iterdir()] == [hashlib.sha256(other).hexdigest()]


def test_a_part_goes_too(cache):
    """What was left of a push long ago is no better than a whole file; it can be begun anew."""
    begun = hashlib.sha256(DATA).hexdigest()
    cache.store.put(begun, 0, 1000, DATA[:900])
    os.utime(cache.store.directory / f"{begun}.part", (1, 1))
    for seed in range(3):
        cache.add(seed)
    assert f"{begun}.part" not in cache.names()
    assert refused(cache.store.put, begun, 900, 1000, DATA[900:]).kind is FailureKind.BAD_REQUEST
    assert put_all(cache.store, DATA).complete


def test_stale_parts(tmp_path):
    """What arrived of a file more than a week ago is deleted at the next start, younger is not."""
    store = Artifacts(tmp_path / "a")
    for name, age_s in (("a" * 64, STALE_PART_S + 60), ("b" * 64, STALE_PART_S - 60)):
        store.put(name, 0, 1000, b"x")
        os.utime(store.directory / f"{name}.part", (1e9 - age_s, 1e9 - age_s))
    again = Artifacts(tmp_path / "a", now_s=lambda: 1e9)
    assert again.has(["a" * 64, "b" * 64]).partial_bytes == {"b" * 64: 1}


def test_damaged_files_are_deleted(store):
    """Of the files named, those whose bytes have changed go, so that a push brings them again."""
    put_all(store, DATA)
    assert store.discard_damaged([SHA, "0" * 64]) == []
    (store.directory / SHA).write_bytes(bytes([DATA[0] ^ 1]) + DATA[1:])
    assert store.discard_damaged([SHA]) == [SHA]
    assert store.has([SHA]).complete == ()
    assert put_all(store, DATA).complete
