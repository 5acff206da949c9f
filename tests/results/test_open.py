from __future__ import annotations

import shutil
import sqlite3
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from results import example
from results.errors import DatabaseTooNew, ResultsError
from results.sql import read_only_query
from results.store import Store
from results.version import SCHEMA_VERSION

NOBODY = 65534


def set_version(path: Path, version: int) -> None:
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute(
            "UPDATE schema_info SET version = ?, software_version = '9.9'", [version]
        )


def test_a_new_database_knows_its_version(path: Path) -> None:
    """Creating writes the schema version, and opening again finds it."""
    Store.open(path, create=True).close()
    with Store.open(path, create=False) as store:
        assert store.rows("SELECT version FROM schema_info") == [{"version": SCHEMA_VERSION}]


def test_a_newer_database_is_refused(filled: Path) -> None:
    """A database of a newer version is refused with both versions and what to do."""
    set_version(filled, SCHEMA_VERSION + 1)
    before = filled.read_bytes()
    for create in (True, False):
        with pytest.raises(DatabaseTooNew, match=rf"version {SCHEMA_VERSION + 1}.*9\.9.*upgrade"):
            Store.open(filled, create=create)
    with pytest.raises(DatabaseTooNew, match="upgrade"):
        read_only_query(filled, "SELECT 1")
    assert filled.read_bytes() == before


def test_an_older_database_is_refused(filled: Path) -> None:
    """A database of a version that this one cannot read is refused, saying which."""
    set_version(filled, SCHEMA_VERSION - 1)
    with pytest.raises(ResultsError, match=f"version {SCHEMA_VERSION - 1}.*needs {SCHEMA_VERSION}"):
        Store.open(filled, create=False)
    with pytest.raises(ResultsError, match="needs"):
        read_only_query(filled, "SELECT 1")


def test_a_database_without_its_version_is_refused(filled: Path) -> None:
    """A schema_info without its row is a damaged database, not a new one."""
    with closing(sqlite3.connect(filled)) as connection, connection:
        connection.execute("DELETE FROM schema_info")
    with pytest.raises(ResultsError, match="version is missing"):
        Store.open(filled, create=True)
    with pytest.raises(ResultsError, match="version is missing"):
        read_only_query(filled, "SELECT 1")


@pytest.mark.parametrize("create", [True, False])
@pytest.mark.parametrize("content", [b"# notes\n" * 200, b"SQLite format 3\0" + bytes(4096)])
def test_another_file_is_no_database(path: Path, content: bytes, *, create: bool) -> None:
    """A file that is no database is refused and left as it is."""
    path.write_bytes(content)
    with pytest.raises(ResultsError, match=str(path)):
        Store.open(path, create=create)
    with pytest.raises(ResultsError, match=str(path)):
        read_only_query(path, "SELECT 1")
    assert path.read_bytes() == content


def test_a_database_of_another_program_is_refused(path: Path) -> None:
    """Tables of something else are never mixed with ours."""
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("CREATE TABLE songs (name)")
    with pytest.raises(ResultsError, match="holds other tables"):
        Store.open(path, create=True)
    with pytest.raises(ResultsError, match="no readable database of results"):
        read_only_query(path, "SELECT 1")


def test_an_empty_file_becomes_a_database_only_when_asked(path: Path) -> None:
    """An empty file is refused for reading, and filled by `create`."""
    path.touch()
    with pytest.raises(ResultsError, match="is empty"):
        Store.open(path, create=False)
    Store.open(path, create=True).close()
    Store.open(path, create=False).close()


def test_a_missing_database_is_not_made_by_reading(path: Path) -> None:
    """Without `create` a missing file is an error that names it, and stays missing."""
    with pytest.raises(ResultsError, match=r"results\.sqlite: no such database"):
        Store.open(path, create=False)
    with pytest.raises(ResultsError, match="no such database"):
        read_only_query(path, "SELECT 1")
    assert not path.exists()


def test_a_path_that_cannot_hold_a_file_is_refused(tmp_path: Path) -> None:
    """A directory, and a path below a missing one, are refused and nothing is made."""
    for path in (tmp_path, tmp_path / "missing" / "results.sqlite"):
        with pytest.raises(ResultsError, match="directory"):
            Store.open(path, create=True)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["with space.sqlite", "50%.sqlite", "a?b#c.sqlite", "ü.sqlite"])
def test_odd_file_names_are_taken_as_they_are(
    full_template: Path, tmp_path: Path, name: str
) -> None:
    """Characters that mean something in a URI are just part of a file's name."""
    shutil.copy(full_template, tmp_path / name)
    assert [p.name for p in tmp_path.iterdir()] == [name]
    assert read_only_query(tmp_path / name, "SELECT COUNT(*) FROM trials").rows == ((8,),)
    with Store.open(f"sqlite:///{tmp_path}/plain.sqlite", create=True) as store:
        assert store.dialect == "sqlite"


@pytest.mark.parametrize("offset", [0, 60, 4096, 40_960])
def test_a_damaged_database_is_an_error_of_ours(filled: Path, offset: int) -> None:
    """Overwritten pages surface as ResultsError, whatever is asked, never as a traceback."""
    data = bytearray(filled.read_bytes())
    data[offset : offset + 4096] = b"\xff" * 4096
    filled.write_bytes(data)
    with pytest.raises(ResultsError), Store.open(filled, create=False) as store:  # noqa: PT012 - either may find it
        for table in ("trials", "samples", "summaries", "readings", "boards", "runs"):
            store.rows(f"SELECT * FROM {table}")  # noqa: S608
        assert store.rows("PRAGMA integrity_check") == []
        raise AssertionError


def test_a_truncated_database_is_an_error_of_ours(filled: Path) -> None:
    """A file cut in half is refused, or fails when read, as ResultsError."""
    data = filled.read_bytes()
    filled.write_bytes(data[: len(data) // 2])
    with pytest.raises(ResultsError), Store.open(filled, create=False) as store:
        store.rows("SELECT * FROM samples")


def test_settings_of_the_writer(path: Path) -> None:
    """The writer works in WAL mode, durably, with foreign keys enforced."""
    with Store.open(path, create=True) as store:
        for pragma, value in (("journal_mode", "wal"), ("synchronous", 2), ("foreign_keys", 1)):
            assert store.rows(f"PRAGMA {pragma}") == [{pragma: value}]


def test_a_locked_database_says_so(filled: Path) -> None:
    """While another process writes, a writer waits and then says what holds it up."""
    with (
        closing(sqlite3.connect(filled, isolation_level=None)) as other,
        Store.open(filled, create=False, busy_timeout_ms=50) as store,
    ):
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(ResultsError, match="locked; another process is writing"):
            store.record_run(example.run("second"))
        assert len(store.rows("SELECT * FROM trials")) == 8  # readers do not wait
        other.execute("ROLLBACK")
        store.record_run(example.run("second"))


def test_two_that_create_at_once_agree(path: Path) -> None:
    """Of several that open a new file at the same moment, one creates it and all can use it."""
    barrier = threading.Barrier(4)
    failures: list[BaseException] = []

    def create(number: int) -> None:
        try:
            barrier.wait()
            with Store.open(path, create=True) as store:
                store.record_run(example.run(f"run-{number}"))
        except BaseException as exc:  # noqa: BLE001 - reported below
            failures.append(exc)

    threads = [threading.Thread(target=create, args=(n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert len(read_only_query(path, "SELECT * FROM runs").rows) == 4


def test_a_read_only_store_cannot_write(filled: Path) -> None:
    """A store opened to read answers, and refuses to store."""
    with Store.open(filled, create=False, read_only=True) as store:
        assert len(store.rows("SELECT * FROM v_trials")) == 8
        with pytest.raises(ResultsError, match="readonly"):
            store.record_run(example.run("second"))


@pytest.fixture
def unwritable(full_template: Path) -> Iterator[Path]:
    """A database in a directory that an ordinary user can read and not write."""
    folder = Path(tempfile.mkdtemp())  # pytest's own directories are closed to other users
    path = Path(shutil.copy(full_template, folder / "results.sqlite"))
    path.chmod(0o444)
    folder.chmod(0o555)
    yield path
    folder.chmod(0o755)
    shutil.rmtree(folder)


PRELUDE = f"""
import os, sys, tempfile
from pathlib import Path
from results.errors import ResultsError
from results.sql import read_only_query
from results.store import Store
with tempfile.TemporaryDirectory() as folder:  # loads all that is loaded late
    Store.open(Path(folder) / "first.sqlite", create=True).close()
if os.geteuid() == 0:
    os.setuid({NOBODY})
path = Path(sys.argv[1])
"""


def as_ordinary_user(code: str, path: Path) -> subprocess.CompletedProcess[str]:
    """Run code as someone whom file permissions bind, which root is not."""
    return subprocess.run(
        [sys.executable, "-c", PRELUDE + code, str(path)],
        capture_output=True, text=True, check=False, cwd=Path(__file__).parents[2],
    )  # fmt: skip


def test_a_database_in_a_read_only_directory_can_be_read(unwritable: Path) -> None:
    """An archived database on read-only media answers queries, though WAL wants side files."""
    code = """
print(read_only_query(path, "SELECT COUNT(*) FROM v_trials").rows)
with Store.open(path, create=False, read_only=True) as store:
    print(store.rows("SELECT COUNT(*) AS n FROM v_trials"))
"""
    done = as_ordinary_user(code, unwritable)
    assert done.stdout == "((8,),)\n[{'n': 8}]\n", done.stderr


def test_a_database_that_may_not_be_written_says_so(unwritable: Path) -> None:
    """Opening it to write names the file and what to do."""
    code = """
try: Store.open(path, create=False)
except ResultsError as exc: print(exc)
"""
    done = as_ordinary_user(code, unwritable)
    assert str(unwritable) in done.stdout, done.stderr
    assert "writable" in done.stdout


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("nonsense://x", "nonsense"),
        ("postgresql+psycopg://me:secret@localhost:1/none", "localhost"),
        ("://", "database URL"),
    ],
)
def test_a_bad_url_is_refused_without_its_password(url: str, message: str) -> None:
    """A URL that leads nowhere is refused; its password is not printed."""
    with pytest.raises(ResultsError, match=message) as caught:
        Store.open(url, create=False)
    assert "secret" not in str(caught.value)


def test_queries_and_records_do_without_sqlalchemy() -> None:
    """What the command line imports for a query or a record does not load SQLAlchemy."""
    code = (
        "import sys, results.errors, results.records, results.sql, results.queries, "
        "results.compare, results.check; sys.exit('sqlalchemy' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parents[2])
