"""The commands about field mapping: preview and apply."""

import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import structlog
import typer

from rankr_sync.app import location_id_of, open_store, stored_facts, stored_rules
from rankr_sync.cli import common, samples, show
from rankr_sync.cli.common import ConfigOption, DebugOption, JsonOption, LocationOption, VerboseOption
from rankr_sync.config import Config
from rankr_sync.errors import BadConfiguration
from rankr_sync.mapping import MappedField
from rankr_sync.preview import doubts
from rankr_sync.store import SqlStore
from rankr_sync.store.remap import Remapped, Report, dry_remap, remap
from rankr_sync.store.upkeep import stored_locations
from rankr_sync.streams import STREAMS

log = structlog.get_logger()

app = common.new_app("How fields of the API become columns of the store.")

SAY_EVERY = 5.0
"""Seconds between two log lines about a remap, where nobody looks at a terminal."""


@app.command(
    help="Show each target with its source and the value it would get, problems marked; writes nothing. Exit code 1 if"
    " there are problems.\n\n"
    + common.example(
        "rankr-sync mapping preview",
        "rankr-sync mapping preview --contact mTkSCb1UBjb5tk4OvB69 --live",
        "rankr-sync mapping preview --stream tasks --sample tasks.json",
    )
)
def preview(
    config: ConfigOption = None,
    location: LocationOption = None,
    contact: Annotated[str | None, typer.Option("--contact", help="The records of a contact, by its id.")] = None,
    live: Annotated[bool, typer.Option("--live", help="As the API sends them now, with --contact.")] = False,
    sample: Annotated[
        Path | None,
        typer.Option("--sample", help="A JSON file: a record as the API sends it, a list of them, or a whole answer."),
    ] = None,
    stream: Annotated[str, typer.Option("--stream", help=f"Which entity: {', '.join(STREAMS)}.")] = "contacts",
    records: Annotated[int, typer.Option("--records", min=1, help="How many records to show.")] = 3,
    as_json: JsonOption = False,
    verbose: VerboseOption = False,
    debug: DebugOption = False,
) -> None:
    """Show what the mapping makes of some records."""
    settings = common.configured(config, quiet=True)
    if stream not in STREAMS:
        raise BadConfiguration(f"there is no stream {stream!r}", hint=f"use one of: {', '.join(STREAMS)}")
    if live and (contact is None or sample is not None):
        raise BadConfiguration("--live needs a contact", hint="rankr-sync mapping preview --contact ID --live")
    one, store = STREAMS[stream], open_store(settings)
    location = location_id_of(store, settings, location)
    if live and contact is not None:
        found = samples.live(settings, one, location, contact)
    else:
        found = samples.of_file(sample, location) if sample else samples.stored(store, one, location, contact)
    facts = stored_facts(store, settings, found.location_id)
    store.close()
    mapping = one.mapping(settings.mapping.get(stream, {}), facts)
    fields = [{**raw, **one.normalise(raw, facts)} for raw in found.payloads]
    doubtful = doubts(mapping, fields)
    shown = [
        (samples.name_of(raw), [_with(field, doubtful.get(field.target)) for field in mapping.preview(payload)])
        for raw, payload in zip(found.payloads[:records], fields, strict=False)
    ]
    if as_json:
        show.as_json([_document(name, field) for name, mapped in shown for field in mapped])
    else:
        _print(stream, shown)
    if any(field.problem for _, mapped in shown for field in mapped):
        raise typer.Exit(1)


def _with(field: MappedField, doubt: str | None) -> MappedField:
    """What this record shows of a problem says more than what is doubtful about the rule."""
    return MappedField(field.target, field.origin, field.value, field.problem or doubt)


def _document(record: str, field: MappedField) -> dict[str, object]:
    return {"record": record, **{name: getattr(field, name) for name in field.__slots__}}


def _print(stream: str, shown: list[tuple[str, list[MappedField]]]) -> None:
    header = ("source", "target", "value")
    for name, mapped in shown:
        rows = [
            (f"! {field.origin}" if field.problem else field.origin, field.target, _cell(field)) for field in mapped
        ]
        show.table(f"{stream} {name}: source, target, value", header, rows)
        print()
    problems = {field.target: field.problem for _, mapped in shown for field in mapped if field.problem}
    if not problems:
        print("no problems")
    for target, words in problems.items():
        print(f"! {target}: {words}")


def _cell(field: MappedField) -> str:
    value = "-" if field.value is None else " ".join(str(field.value).split())[:80]
    return f"{value}  ! {field.problem}" if field.problem else value


@app.command(
    help="Map every stored record again from its kept payload, without one API request. Can be stopped and run"
    " again, beside a running daemon.\n\n"
    + common.example("rankr-sync mapping apply --dry-run", "rankr-sync mapping apply")
)
def apply(
    config: ConfigOption = None,
    location: LocationOption = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Count what would change, write nothing.")] = False,
    verbose: VerboseOption = False,
    debug: DebugOption = False,
) -> None:
    """Map everything again."""
    settings = common.configured(config)
    store = open_store(settings)
    chosen = location_id_of(store, settings, location)
    overtaken: dict[str, list[str]] = {}
    for location_id in [chosen] if chosen else stored_locations(store):
        with _progress(location_id) as on_progress:
            report = (_counted if dry_run else _applied)(store, settings, location_id, on_progress)
        for name, done in report.streams.items():
            words = f"{done.read:,} read, {done.changed:,} changed, {done.rejected:,} not in full"
            print(f"{location_id} {name}: {words}{' (nothing was written)' if dry_run else ''}")
        if report.overtaken:
            overtaken[location_id] = report.overtaken
    store.close()
    for location_id, names in overtaken.items():
        typer.echo(
            f"error: another program wrote {', '.join(names)} of {location_id} by other rules meanwhile", err=True
        )
        typer.echo("  -> restart the daemon, so that it has these rules, then run: rankr-sync mapping apply", err=True)
    if overtaken:
        raise typer.Exit(1)


def _applied(store: SqlStore, config: Config, location_id: str, on_progress: Callable[[str, Remapped], None]) -> Report:
    rules = stored_rules(store, config, location_id)
    return remap(store, location_id, rules, lambda: datetime.now(UTC), on_progress=on_progress)


def _counted(store: SqlStore, config: Config, location_id: str, on_progress: Callable[[str, Remapped], None]) -> Report:
    report = Report()
    for name, batch in dry_remap(store, location_id, stored_rules(store, config, location_id)):
        report.streams[name] += batch
        on_progress(name, report.streams[name])
    return report


@contextmanager
def _progress(location_id: str) -> Iterator[Callable[[str, Remapped], None]]:
    """A line on a terminal, and elsewhere a log line every few seconds."""
    done: Counter[str] = Counter()
    if sys.stderr.isatty():
        from rich.console import Console
        from rich.status import Status

        with Status(f"{location_id}: mapping", console=Console(stderr=True)) as line:

            def update(name: str, counts: Remapped) -> None:
                done[name] = counts.read
                line.update(f"{location_id}: " + ", ".join(f"{count:,} {one}" for one, count in done.items()))

            yield update
        return
    last = time.monotonic()

    def tell(name: str, counts: Remapped) -> None:
        nonlocal last
        done[name] = counts.read
        if time.monotonic() - last >= SAY_EVERY:
            last = time.monotonic()
            log.info("mapping.progress", location=location_id, **done)

    yield tell
