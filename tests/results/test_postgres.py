from __future__ import annotations

import importlib.util
import os
import pwd
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import create_mock_engine

from results import example
from results.check import check
from results.compare import compare
from results.errors import DatabaseTooNew, RecordRefused, ResultsError
from results.queries import leaderboard, runs
from results.records import Recorded
from results.schema import Base
from results.sides import Selector
from results.store import Store
from results.views import VIEWS

pytestmark = pytest.mark.postgres

PROGRAMS = ("initdb", "pg_ctl", "postgres", "psql")
ABSENT = [program for program in PROGRAMS if shutil.which(program) is None]


def user_options() -> dict[str, object]:
    """PostgreSQL refuses to run as root: then take an ordinary user's id."""
    if os.geteuid() != 0:
        return {}
    for name in ("postgres", "nobody"):
        try:
            found = pwd.getpwnam(name)
        except KeyError:
            continue
        return {"user": found.pw_uid, "group": found.pw_gid, "extra_groups": []}
    pytest.skip("PostgreSQL cannot run as root, and this machine has no user postgres or nobody")


@pytest.fixture(scope="module")
def server() -> Iterator[Path]:
    """The socket directory of a PostgreSQL of our own, closed to the network."""
    if ABSENT:
        pytest.skip(f"{', '.join(ABSENT)} not found (`apt-get install postgresql`)")
    options = user_options()
    folder = Path(tempfile.mkdtemp(prefix="pg"))  # short: a socket's path is limited
    if options:
        os.chown(folder, int(str(options["user"])), int(str(options["group"])))

    def call(*command: str) -> None:
        subprocess.run(
            command, check=True, cwd=folder, stdout=subprocess.DEVNULL, timeout=60,
            **options,  # type: ignore[call-overload]
        )  # fmt: skip

    data = str(folder / "data")
    settings = f"-c listen_addresses='' -c unix_socket_directories={folder} -c fsync=off"
    try:
        call("initdb", "-D", data, "-U", "bench", "-A", "trust", "-E", "UTF8", "--no-sync")
        call("pg_ctl", "-D", data, "-l", f"{data}/log", "-w", "-o", settings, "start")
        yield folder
        call("pg_ctl", "-D", data, "-m", "immediate", "-w", "stop")
    finally:
        shutil.rmtree(folder)


def psql(server: Path, sql: str, database: str = "postgres") -> str:
    done = subprocess.run(
        ["psql", "-h", str(server), "-U", "bench", "-d", database, "-qAtX",
         "-v", "ON_ERROR_STOP=1", "-f", "-"],
        input=sql, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture
def url(server: Path, request: pytest.FixtureRequest) -> str:
    """The URL of an empty database."""
    if importlib.util.find_spec("psycopg") is None:
        pytest.skip("psycopg is not installed (`pip install 'psycopg[binary]'`)")
    name = f"t{abs(hash(request.node.name)):x}"
    psql(server, f"CREATE DATABASE {name}")
    return f"postgresql+psycopg://bench@/{name}?host={server}"


def test_the_same_metadata_makes_tables_and_views_in_postgresql(server: Path) -> None:
    """Every table, comment and view is accepted by PostgreSQL as it stands."""
    statements: list[str] = []

    def keep(statement: object, *_: object) -> None:
        statements.append(str(statement.compile(dialect=engine.dialect)))  # type: ignore[attr-defined]

    engine = create_mock_engine("postgresql://", keep)
    Base.metadata.create_all(engine, checkfirst=False)
    statements += [view.create_sql() for view in VIEWS]
    psql(server, "CREATE DATABASE plain")
    psql(server, ";\n".join(statements), "plain")
    for view in VIEWS:
        assert psql(server, f"SELECT COUNT(*) FROM {view.name}", "plain") == "0\n"  # noqa: S608
    comment = psql(server, "SELECT obj_description('samples'::regclass)", "plain")
    assert comment.startswith("Every timed inference")


def test_a_run_is_the_same_in_both_databases(url: str, filled: Path) -> None:
    """Stored in PostgreSQL, a run has the same rows, tables and verdicts as in SQLite."""
    with Store.open(url, create=True) as pg, Store.open(filled, create=False) as lite:
        example.fill(pg)
        assert leaderboard(pg, example.RUN_ID) == leaderboard(lite, example.RUN_ID)
        assert runs(pg) == runs(lite)
        for table in (
            "trials",
            "samples",
            "readings",
            "summaries",
            "evaluations",
            "image_scores",
            "boards",
        ):
            query = f"SELECT * FROM {table} ORDER BY 1, 2"  # noqa: S608
            assert pg.rows(query) == lite.rows(query)
        for view in VIEWS:
            columns = {column.name for column in view.columns}
            orders = ("trial_no, seq", "evaluation_no, place", "board, variant, p50_ms")
            order = next(o for o in orders if columns >= set(o.split(", ")))
            query = f"SELECT * FROM {view.name} ORDER BY {order}"  # noqa: S608
            for ours, theirs in zip(pg.rows(query), lite.rows(query), strict=True):
                assert ours == pytest.approx(theirs)
        a, b = (
            Selector.parse("board=pi5,variant=int8_ptq"),
            Selector.parse("board=pi5,variant=fp32"),
        )
        assert compare(pg, a, b) == compare(lite, a, b)
        assert check(pg) == []


def test_exactly_once_in_postgresql_too(url: str) -> None:
    """The same trial again is a no-op, other content and nonsense are refused whole."""
    with Store.open(url, create=True) as store:
        example.fill(store)
        trial = example.trial("pi5", "fp32", 0, 0, scored=True)
        assert store.record_trial(trial) is Recorded.ALREADY
        with pytest.raises(RecordRefused, match="other content"):
            store.record_trial(example.trial("pi5", "fp32", 0, 0))
        with pytest.raises(RecordRefused, match="block"):
            store.record_trial(example.trial("pi5", "fp32", -1, 50))
        assert len(store.finished_trials(example.RUN_ID)) == 8


def test_the_version_is_checked_in_postgresql_too(url: str) -> None:
    """An empty database, and one of a newer version, are refused."""
    with pytest.raises(ResultsError, match="is empty"):
        Store.open(url, create=False)
    with Store.open(url, create=True) as store, store._writing() as connection:
        connection.exec_driver_sql("UPDATE schema_info SET version = version + 1")
    with pytest.raises(DatabaseTooNew, match="upgrade"):
        Store.open(url, create=False)
