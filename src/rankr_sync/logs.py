"""Logging: structlog to standard error, for people or as JSON. Never a token, never a contact's details.

Promises kept here:
- each line is one event, tracebacks included: as JSON every line can be read by itself;
- of an error only what we wrote ourselves is shown. Words of others (a driver's, a parser's) may quote what they were
  given, so of their errors the kind and the place in the code is told, which is what mends them;
- other libraries speak through the same door, from warnings up.
"""

import logging
import os
import sys
import traceback
from collections.abc import Iterator, MutableMapping
from typing import Any, TextIO, cast

import structlog

from rankr_sync.errors import RankrSyncError

_QUIETER = {
    # A ring that finds its work still under way is how the daemon is meant to run, not worth a warning.
    "apscheduler": logging.ERROR,
    # Its warnings name whole URLs, and those of notifications hold secrets.
    "urllib3": logging.ERROR,
}


def colored(stream: TextIO) -> bool:
    """Whether what is written there may have colours: it is a terminal, and NO_COLOR is not set to anything."""
    return stream.isatty() and not os.environ.get("NO_COLOR")


class _StandardError:
    """What `sys.stderr` is just then: below a progress bar it is what writes above the bar."""

    def write(self, words: str) -> int:
        return sys.stderr.write(words)

    def flush(self) -> None:
        sys.stderr.flush()


_lowest: list[str] = []
"""The level that was asked for at the command line, if one was."""


def lower_level(level: str | None) -> None:
    """From the next `configure` on, log from `level` up whatever that is told; None: as it is told."""
    _lowest[:] = [level] if level else []


def configure(format_: str = "console", level: str = "info") -> None:
    """Set up logging for the whole process. Other libraries speak from WARNING up."""
    stderr = cast(TextIO, _StandardError())
    levels = logging.getLevelNamesMapping()
    threshold = min(levels[name.upper()] for name in (level, *_lowest))
    shared: list[Any] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        show_error,
    ]
    renderer: Any = (
        structlog.processors.JSONRenderer(default=_kind_of)
        if format_ == "json"
        else structlog.dev.ConsoleRenderer(colors=colored(sys.stderr), pad_event_to=18, sort_keys=False)
    )
    structlog.configure(
        processors=[*shared, renderer],
        wrapper_class=structlog.make_filtering_bound_logger(threshold),
        logger_factory=structlog.WriteLoggerFactory(file=stderr),
        cache_logger_on_first_use=False,
    )
    handler = logging.StreamHandler(stderr)
    handler.addFilter(_without_error_text)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, renderer],
            foreign_pre_chain=[*shared],
            use_get_message=True,
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.WARNING)
    for name, from_ in _QUIETER.items():
        logging.getLogger(name).setLevel(from_)


def show_error(_logger: Any, _name: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """A processor: the traceback of `exc_info` as text, in `exception`."""
    found = event.pop("exc_info", None)
    error = found[1] if isinstance(found, tuple) else found
    if error is True:
        error = sys.exc_info()[1]
    if isinstance(error, BaseException):
        event["exception"] = traceback_of(error)
    return event


def traceback_of(error: BaseException) -> str:
    """Where an error came up, and what it came of: places in the code, kinds of errors, and words of our own."""
    return "\n".join(_told(error, set())).rstrip("\n")


def _told(error: BaseException, seen: set[int]) -> Iterator[str]:
    seen.add(id(error))
    cause = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    if cause is not None and id(cause) not in seen:
        yield from _told(cause, seen)
        yield "\nand of that came, or while that was handled:\n"
    if error.__traceback__ is not None:
        yield "Traceback (most recent call last):"
        yield "".join(traceback.format_tb(error.__traceback__)).rstrip("\n")
    yield named(error)
    for part in error.exceptions if isinstance(error, BaseExceptionGroup) else ():
        if id(part) not in seen:
            yield "\none of the group:\n"
            yield from _told(part, seen)


def named(error: BaseException) -> str:
    """The kind of an error, and its words if they are ours; of an operating system's error its number's meaning."""
    kind = type(error)
    name = kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"
    if isinstance(error, RankrSyncError):
        return f"{name}: {error}"
    if isinstance(error, OSError) and error.strerror:
        return f"{name}: {error.strerror}"
    return name


def _without_error_text(record: logging.LogRecord) -> bool:
    """A filter that lets all pass: an exception among a record's arguments is told as its kind only."""
    if record.name == "asyncio":  # its further lines show what tasks and their errors hold
        record.msg, record.args = record.getMessage().partition("\n")[0], ()
    if isinstance(record.msg, BaseException):
        record.msg = named(record.msg)
    if isinstance(record.args, tuple):
        record.args = tuple(named(arg) if isinstance(arg, BaseException) else arg for arg in record.args)
    return True


def _kind_of(value: Any) -> str:
    """What is no JSON is told as its kind: its representation might show what it holds."""
    return value.isoformat() if hasattr(value, "isoformat") else f"<{type(value).__qualname__}>"
