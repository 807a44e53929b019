"""The doctor: what works, what does not, and what to do about it. One line each."""

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import typer

from rankr_sync.app import App, build, chosen_locations, former_rows
from rankr_sync.cli import common, show
from rankr_sync.cli.common import ConfigOption, DebugOption, LocationOption
from rankr_sync.config import Config
from rankr_sync.engine import LocationSync
from rankr_sync.engine.context import URGENT
from rankr_sync.errors import RankrSyncError
from rankr_sync.model import Answer, Page, Request
from rankr_sync.streams import OWNER, STREAMS, Lookup, Walk, reference

CHECK_HELP = (
    "A doctor: configuration, database, credentials and scope of each endpoint, clock, quota. Exit code 1 if something"
    " would stop a sync.\n\n" + common.example("rankr-sync check", "rankr-sync check --location ve9EPM428h8vShlRW1KT")
)

GOOD, WARNING, BAD = "ok", "warn", "FAIL"
CLOCK_SKEW = 60.0
MOST_REQUESTS = 10
"""What the look at one location takes, and two to try again."""
ANOTHER_LISTING = "the other listing is used instead"
ONE_BY_ONE = "one request per contact is used instead, which costs more of the quota"


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of the report."""

    verdict: str
    subject: str
    words: str
    hint: str | None = None


def check(config: ConfigOption = None, location: LocationOption = None, debug: DebugOption = False) -> None:
    """A doctor."""
    settings = common.configured(config, quiet=True)
    failed = common.run_until_done(lambda stop: _examine(settings, location, stop))
    if failed:
        raise typer.Exit(1)


async def _examine(config: Config, location: str | None, stop: asyncio.Event) -> bool:
    failed = False

    def say(finding: Finding) -> None:
        nonlocal failed
        failed = failed or finding.verdict == BAD
        print(f"{finding.verdict:<5} {finding.subject:<46} {finding.words}")
        if finding.hint:
            print(f"{'':<5} -> {finding.hint}")

    locations = chosen_locations(config, location)
    say(Finding(GOOD, "configuration", f"{len(locations)} location(s), streams {', '.join(config.streams)}"))
    try:
        async with build(config, stop=stop, location=location) as app:
            say(Finding(GOOD, "database", f"{app.store.place}, schema {app.store.revision()}"))
            for sync in app.locations.values():
                async with app.leases[sync.context.location_id].held_or_lent(MOST_REQUESTS):
                    findings = await _examine_location(app, sync)
                findings.append(
                    _mapping(sync.context.location_id, former_rows(app.store, config, sync.context.location_id))
                )
                for finding in findings:
                    say(finding)
    except RankrSyncError as error:
        say(Finding(BAD, "start", error.message, error.hint))
    return failed


async def _examine_location(app: App, sync: LocationSync) -> list[Finding]:
    context = sync.context
    id_, source = context.location_id, app.sources[context.location_id]
    findings: list[Finding] = []
    answers: list[Answer] = []
    errors: list[RankrSyncError] = []

    async def ask(subject: str, request: Request, read: Callable[[Answer], Any], without: str | None) -> Any:
        """`without`: what happens when this endpoint is closed to us; None: nothing works."""
        try:
            answer = await source.fetch(request, priority=URGENT, hurried=True)
            answers.append(answer)
            found = read(answer)
        except RankrSyncError as error:
            errors.append(error)
            verdict = BAD if without is None else WARNING
            findings.append(Finding(verdict, subject, str(error), error.hint if without is None else without))
            return None
        findings.append(Finding(GOOD, subject, "open"))
        return found

    walks = [walk for walk in OWNER.walks if app.config.api.listing in ("auto", walk.name)]
    contact_id = None
    for walk in walks:
        instead = ANOTHER_LISTING if len(walks) > 1 else None
        page = await ask(f"{id_}: {OWNER.name} {walk.name}", *_first_page(walk, id_), instead)
        if page is not None and page.records:
            contact_id = page.records[0].id
    if all(finding.verdict != GOOD for finding in findings):
        return [replace(one, verdict=BAD, hint=error.hint) for one, error in zip(findings, errors, strict=True)]
    for name in app.config.streams:
        stream = STREAMS[name]
        if stream.owner:
            continue
        for walk in stream.walks:
            instead = ONE_BY_ONE if stream.lookup is not None else None
            await ask(f"{id_}: {name} {walk.name}", *_first_page(walk, id_), instead)
        if stream.lookup is not None and contact_id is not None:
            await ask(f"{id_}: {name} of a contact", *_lookup_of(stream.lookup, contact_id), None)
    await ask(
        f"{id_}: location",
        reference.location_request(id_),
        lambda a: reference.location_parse(id_, a.payload),
        "set the location's timezone in the configuration; until then times without a zone are taken for UTC",
    )
    await ask(
        f"{id_}: custom fields",
        reference.custom_fields_request(id_),
        lambda a: reference.custom_fields_parse(a.payload),
        "custom fields are mapped by id only",
    )
    findings.append(_clock(id_, answers))
    findings.append(_quota(id_, source.pacer.budget.daily_remaining, source.pacer.budget.daily_limit))
    return findings


def _first_page(walk: Walk, location_id: str) -> tuple[Request, Callable[[Answer], Page]]:
    begin = walk.begin(None)
    return walk.request(location_id, begin), lambda answer: walk.parse(begin, answer.payload)


def _lookup_of(lookup: Lookup, contact_id: str) -> tuple[Request, Callable[[Answer], Page]]:
    return lookup.request(contact_id), lambda answer: lookup.parse(contact_id, answer.payload)


def _mapping(id_: str, former: Mapping[str, int]) -> Finding:
    if not former:
        return Finding(GOOD, f"{id_}: mapping", "every row is of the rules that are configured")
    words, hint = show.former(former).split("\n  -> ")
    return Finding(WARNING, f"{id_}: mapping", words, hint)


def _clock(id_: str, answers: list[Answer]) -> Finding:
    skews = [(a.asked_at - a.server_time).total_seconds() for a in answers if a.server_time is not None]
    if not skews:
        return Finding(WARNING, f"{id_}: clock", "the API's answers carry no date to compare with")
    skew = min(skews, key=abs)
    if abs(skew) > CLOCK_SKEW:
        return Finding(WARNING, f"{id_}: clock", f"{skew:+.0f} s from the API's", "set this machine's clock (NTP)")
    return Finding(GOOD, f"{id_}: clock", "agrees with the API's")


def _quota(id_: str, left: int | None, limit: int | None) -> Finding:
    if left is None:
        return Finding(WARNING, f"{id_}: quota", "the API does not tell what is left of the day's quota")
    of = f" of {limit:,}" if limit else ""
    if left == 0:
        return Finding(BAD, f"{id_}: quota", f"nothing{of} left today", "wait for the reset: rankr-sync status")
    return Finding(GOOD, f"{id_}: quota", f"{left:,}{of} left today")
