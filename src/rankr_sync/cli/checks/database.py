"""The store as `check` sees it: reachable, of which schema, writable, with room, and who is at work on what.

Looks only. A store that does not exist is not made, an old one is not migrated: the next start does both.
"""

import os
import shutil
from collections.abc import Iterable, Iterator, Mapping
from datetime import datetime
from pathlib import Path

from rankr_sync.access import LOG_IN
from rankr_sync.app import former_rows
from rankr_sync.cli import show
from rankr_sync.cli.checks.finding import OK, PROBLEM, WARNING, Finding, of_error
from rankr_sync.config import Config
from rankr_sync.engine import is_dead
from rankr_sync.errors import RankrSyncError
from rankr_sync.oauth import grants
from rankr_sync.spans import ago
from rankr_sync.store import SqlStore, look
from rankr_sync.store.connect import file_of, location_of
from rankr_sync.store.migrate import check_not_newer, newest_revision

SUBJECT, DISK, LEASE, MAPPING, LOGIN = "database", "disk", "at work", "mapping", "OAuth login"

LITTLE_ROOM, NO_ROOM = 1_000_000_000, 50_000_000
"""Bytes on the disk of the SQLite file below which `check` warns, and below which a sync would soon stop."""


def examine(config: Config, location_ids: Iterable[str], now: datetime) -> tuple[list[Finding], bool]:
    """What there is to say, and whether the store is there and of this release."""
    try:
        file = file_of(config.database.url)
        if file is not None and not file.exists():
            return [*_new_file(config, file), *_disk(file)], False
        return _existing(config, file, location_ids, now)
    except RankrSyncError as error:
        return [of_error(error, SUBJECT)], False


def _new_file(config: Config, file: Path) -> Iterator[Finding]:
    folder = _nearest(file)
    if os.access(folder, os.W_OK | os.X_OK) and folder.is_dir():
        yield Finding(OK, SUBJECT, f"{location_of(config.database.url)} does not exist yet: the first start makes it")
        return
    hint = "choose a folder you may write to with RANKR_SYNC_DATABASE__URL=sqlite:////path/rankr.db"
    yield Finding(PROBLEM, SUBJECT, f"the database file {file} cannot be created in {folder}", hint, exit_code=1)


def _nearest(file: Path) -> Path:
    """The folder of the file, or the nearest above it that exists."""
    return next(folder for folder in file.absolute().parents if folder.exists())


def _existing(
    config: Config, file: Path | None, location_ids: Iterable[str], now: datetime
) -> tuple[list[Finding], bool]:
    store = SqlStore(config.database.url)
    try:
        revision = store.revision()
        check_not_newer(revision)
        store.try_to_write()
        newest = newest_revision()
        words = f"{store.place}, schema {revision or 'empty'}"
        if revision != newest:
            words += f": the next start brings it to {newest}" if revision else ": the first start makes it"
        found = [Finding(OK, SUBJECT, words), *(_disk(file) if file is not None else _size(store))]
        if revision == newest:
            found += _logins(store, config, now)
            for id_ in location_ids:
                found += [_lease(store, id_, now), _mapping(former_rows(store, config, id_), id_)]
        return found, revision == newest
    finally:
        store.close()


def _disk(file: Path) -> Iterator[Finding]:
    folder = _nearest(file)
    try:
        free = shutil.disk_usage(folder).free
    except OSError as error:
        yield Finding(WARNING, DISK, f"the free space of {folder} cannot be read: {error.strerror}")
        return
    size = sum(part.stat().st_size for part in (file, file.with_name(f"{file.name}-wal")) if part.exists())
    words = f"{show.size(free)} free" + (f", the database takes {show.size(size)}" if size else "")
    hint = "make room on this disk, or move the file: RANKR_SYNC_DATABASE__URL=sqlite:////path/rankr.db"
    if free < NO_ROOM:
        yield Finding(PROBLEM, DISK, words, hint, exit_code=1)
    elif free < max(LITTLE_ROOM, size // 5):
        yield Finding(WARNING, DISK, words, hint)
    else:
        yield Finding(OK, DISK, words)


def _size(store: SqlStore) -> Iterator[Finding]:
    with store.reading() as tx:
        size = look.database_size(tx.connection)
    yield Finding(OK, DISK, f"the database takes {show.size(size)}; the server's disk cannot be seen from here")


def _logins(store: SqlStore, config: Config, now: datetime) -> Iterator[Finding]:
    """The OAuth logins that were made here; tokens that are made of an agency's come and go by themselves."""
    for one in grants.state(store, now):
        if not one.renews and not one.ended:
            continue
        subject = f"{LOGIN} {one.location_id or one.company_id}"
        missing = grants.not_granted(config.oauth.scopes, one.scopes)
        if one.ended:
            yield Finding(WARNING, subject, f"has ended: {one.error or 'it was refused'}", LOG_IN)
        elif missing:
            hint = f"add them to the app, then: {LOG_IN}"
            yield Finding(WARNING, subject, f"without the scopes {', '.join(missing)}", hint)
        else:
            yield Finding(OK, subject, f"open, its tokens were got {ago(one.got_at, now)}")


def _lease(store: SqlStore, location_id: str, now: datetime) -> Finding:
    with store.reading() as tx:
        lease = look.lease(tx.connection, location_id)
    if lease is None:
        return Finding(OK, LEASE, "nobody", location=location_id)
    words = f"{lease['holder']}, since {ago(lease['taken_at'], now)}"
    if lease["expires_at"] < now or is_dead(lease["holder"]):
        return Finding(OK, LEASE, f"nobody; {words} until it died: the next start goes on", location=location_id)
    return Finding(OK, LEASE, f"{words}, its lease ends {ago(lease['expires_at'], now)}", location=location_id)


def tells_of_work(finding: Finding) -> bool:
    """Whether this line says that somebody is at work."""
    return finding.subject == LEASE and not finding.words.startswith("nobody")


def _mapping(former: Mapping[str, int], location_id: str) -> Finding:
    if not former:
        return Finding(OK, MAPPING, "every row is of the rules that are configured", location=location_id)
    words, hint = show.former(former).split("\n  -> ")
    return Finding(WARNING, MAPPING, words, hint, location_id)
