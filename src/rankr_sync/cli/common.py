"""What every command shares: its options, the configuration, and from our errors to a sentence and an exit code."""

import asyncio
import contextlib
import os
import signal
import sys
from collections.abc import Callable, Coroutine, Iterable, Iterator
from pathlib import Path
from typing import Annotated, Any, NoReturn, TypeVar

import typer
from typer.exceptions import TyperException

from rankr_sync import logs
from rankr_sync.config import Config, load
from rankr_sync.errors import Interrupted, RankrSyncError

T = TypeVar("T")

DEBUG = "--debug"

ConfigOption = Annotated[
    Path | None, typer.Option("--config", help="Configuration file; else $RANKR_SYNC_CONFIG, else ./config.toml.")
]
NoConfigOption = Annotated[
    Path | None, typer.Option("--config", help="Taken as by every command; nothing of it is needed here.")
]
DebugOption = Annotated[bool, typer.Option(DEBUG, help="Show the traceback of an error.")]
VerboseOption = Annotated[
    bool,
    typer.Option(
        "--verbose",
        callback=lambda wanted: logs.lower_level("debug" if wanted else None),
        is_eager=True,
        help="Log every request and decision, whatever log.level says.",
    ),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON, for other programs.")]
LocationOption = Annotated[str | None, typer.Option("--location", help="Only this location (its id or name).")]


def new_app(help_: str) -> typer.Typer:
    """A group of commands in the house's manner: plain help, our own errors."""
    return typer.Typer(
        help=help_,
        no_args_is_help=True,
        add_completion=False,
        rich_markup_mode=None,
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["-h", "--help"]},
    )


def example(*lines: str) -> str:
    """The end of a command's help."""
    return "\b\nExamples:\n" + "\n".join(f"  {line}" for line in lines)


def configured(path: Path | None, *, quiet: bool = False) -> Config:
    """The configuration, with logging set up as it says (`quiet`: warnings and errors only)."""
    config = load(path)
    level = "warning" if quiet and config.log.level == "info" else config.log.level
    logs.configure(config.log.format, level)
    return config


def run_until_done(work: Callable[[asyncio.Event], Coroutine[Any, Any, T]]) -> T:
    """Run asynchronous work; SIGINT and SIGTERM set its stop event, and end the program as 130 or 143."""
    caught: list[int] = []

    async def watched() -> T:
        stop = asyncio.Event()

        def end(number: int) -> None:
            caught.append(number)
            stop.set()

        for number in (signal.SIGINT, signal.SIGTERM):
            asyncio.get_running_loop().add_signal_handler(number, end, number)
        return await work(stop)

    try:
        return asyncio.run(watched())
    except Interrupted:
        typer.echo("ended as asked; run the same command again to go on", err=True)
        raise typer.Exit(128 + (caught[0] if caught else signal.SIGINT)) from None


def explain(error: RankrSyncError) -> None:
    """The error as one sentence, and what to type next."""
    typer.echo(f"error: {error}", err=True)
    if error.hint:
        typer.echo(f"  -> {error.hint}", err=True)


def raise_last(errors: Iterable[RankrSyncError]) -> None:
    """Explain all errors but the last, which is raised; nothing where there are none."""
    *others, last = [None, *errors]
    for error in others:
        if error is not None:
            explain(error)
    if last is not None:
        raise last


def main_with(app: typer.Typer) -> NoReturn:
    """Run the command line. Exit codes: 0 done, 1 failure, 2 usage or configuration, 3 credentials, 130/143 signals."""
    command = typer.main.get_command(app)
    code = _code_of(lambda: command(standalone_mode=False))
    try:
        if sys.stdout is not None:
            sys.stdout.flush()
    except BrokenPipeError:  # the reader has gone before a word was written; nor shall Python try it again at its end
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    sys.exit(code)


def _code_of(call: Callable[[], Any]) -> int:
    try:
        with _debugging():
            result = call()
            return result if isinstance(result, int) else 0
    except typer.Exit as end:
        return end.exit_code
    except TyperException as error:
        words = error.format_message()
        if words.startswith("Usage:"):  # called without a command: the help itself is the message
            typer.echo(words, err=True)
        else:
            context = getattr(error, "ctx", None)
            typer.echo(f"error: {words}", err=True)
            typer.echo(f"  -> {context.command_path if context else 'rankr-sync'} --help", err=True)
        return error.exit_code
    except (typer.Abort, KeyboardInterrupt):
        return 130
    except SystemExit as end:  # typer's own word for a reader that has gone, as `head` does, is 1
        if isinstance(end.__context__, BrokenPipeError):
            return 0
        raise
    except RankrSyncError as error:
        explain(error)
        return error.exit_code
    except BrokenPipeError:
        return 0
    except Exception as error:
        typer.echo(f"error: something unexpected happened ({type(error).__name__})", err=True)
        typer.echo(f"  -> run it again with {DEBUG} and report what it prints", err=True)
        return 1


@contextlib.contextmanager
def _debugging() -> Iterator[None]:
    try:
        yield
    except (typer.Exit, TyperException, typer.Abort):
        raise
    except Exception as error:
        if DEBUG in sys.argv:
            typer.echo(logs.traceback_of(error), err=True)
        raise
