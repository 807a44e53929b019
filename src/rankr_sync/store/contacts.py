"""Finding contacts, for people: by what they type, by tag, by business, page after page. Reads only.

Every way to find is a range of an index (see `schema.SEARCH_INDEXES`), so a page takes milliseconds with a million
contacts. What begins with the words is found, not what holds them somewhere.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from pydantic_core import to_json
from sqlalchemy import (
    ColumnElement,
    Connection,
    Select,
    String,
    and_,
    case,
    collate,
    false,
    func,
    literal_column,
    not_,
    or_,
    select,
    true,
)
from sqlalchemy import text as sql

from rankr_sync import schema
from rankr_sync.model import Row
from rankr_sync.store.connect import is_sqlite

_TABLE = schema.contacts
_SHOWN = [column for column in _TABLE.columns if column.name not in ("raw", "digest", "extra", "custom_fields")]
_LAST = "\U0010ffff"
"""What sorts behind everything that begins alike."""

MOST_COUNTED = 10_000

LONG = 7
"""Digits from which on they may be the end of a phone number."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """Which contacts. `words`: the beginning of a name, family name or e-mail address, a phone number (in any
    punctuation), or an id; `tag` and `business`: only those that have this tag, or belong to the business of this id.
    """

    words: str = ""
    tag: str | None = None
    business: str | None = None


@dataclass(frozen=True, slots=True)
class _Way:
    """One way to find: what the rows are sorted by, and which rows these are."""

    key: ColumnElement[str]
    which: ColumnElement[bool]


def list_contacts(
    connection: Connection, location_id: str, wanted: Wanted, *, limit: int, after: str | None = None
) -> list[Row]:
    """Up to `limit` contacts, tombstones included, beginning behind the one with the id `after`.

    By name; where there are words, first those whose name begins with them, then those by family name, then by
    e-mail address. Each contact once. Rows have no payload, no custom fields and none of the user's own fields.
    """
    ways = _ways(connection, wanted.words)
    narrowed = [_TABLE.c.location_id == location_id, *_filters(connection, wanted)]
    begin, key = _place_of(connection, location_id, ways, after) if after is not None else (0, None)
    found: list[Row] = []
    for number, way in enumerate(ways[begin:], begin):
        query = _found_by(ways, number, select(*_SHOWN).where(*narrowed))
        if number == begin and key is not None:
            query = query.where(way.key >= key, or_(way.key > key, _TABLE.c.id > after))
        query = query.order_by(way.key, _TABLE.c.id).limit(limit - len(found))
        found += [dict(row) for row in connection.execute(query).mappings()]
        if len(found) >= limit:
            break
    return found


def find_contacts(connection: Connection, wanted: str, location_id: str | None = None) -> list[Row]:
    """Whole rows, up to 20, by what names one: an id, an e-mail address (any case) or a phone number.

    A phone number may have any punctuation, and be written as in its own country. Of these ways the first that finds
    any counts.
    """
    digits = _digits(wanted)
    ways = [_TABLE.c.id == wanted]
    if "@" in wanted:
        ways.append(func.lower(_TABLE.c.email) == wanted.strip().lower())
    elif len(digits) >= LONG:
        ways += [_TABLE.c.phone.in_([wanted, f"+{digits}"]), _ends_in(digits.lstrip("0"))]
    for way in ways:
        query = select(_TABLE).where(way)
        if location_id is not None:
            query = query.where(_TABLE.c.location_id == location_id)
        rows = [dict(row) for row in connection.execute(query.limit(20)).mappings()]
        if rows:
            return rows
    return []


def count_contacts(connection: Connection, location_id: str, wanted: Wanted, most: int = MOST_COUNTED) -> int:
    """How many there are, tombstones included; counts no further than `most`."""
    ways = _ways(connection, wanted.words)
    narrowed = [_TABLE.c.location_id == location_id, *_filters(connection, wanted)]
    counted = 0
    for number in range(len(ways)):
        some = _found_by(ways, number, select(_TABLE.c.id).where(*narrowed)).limit(most - counted).subquery()
        counted += connection.execute(select(func.count()).select_from(some)).scalar_one()
        if counted >= most:
            break
    return counted


def _found_by(ways: Sequence[_Way], number: int, query: Select[Any]) -> Select[Any]:
    """What this way finds and none before it did."""
    before = [not_(func.coalesce(way.which, false())) for way in ways[:number]]
    return query.where(ways[number].which, *before)


def _place_of(
    connection: Connection, location_id: str, ways: Sequence[_Way], contact_id: str
) -> tuple[int, str | None]:
    """By which way this contact was found, and its key there; the begin of all when it is not there any more."""
    number = case(*((way.which, place) for place, way in enumerate(ways)), else_=-1)
    query = select(number, *(way.key for way in ways)).where(
        _TABLE.c.location_id == location_id, _TABLE.c.id == contact_id
    )
    row = connection.execute(query).first()
    if row is None or row[0] < 0:
        return 0, None
    return row[0], row[1 + row[0]]


# -- what people type ----------------------------------------------------------------------------------


def _ways(connection: Connection, words: str) -> list[_Way]:
    words = " ".join(words.split())
    label, family, address, phone = (
        _by_bytes(connection, what) for what in (schema.LABEL, schema.FAMILY, schema.ADDRESS, "phone")
    )
    if not words:
        return [_Way(label, true())]
    ways = [_Way(_TABLE.c.id, _TABLE.c.id == words)]
    digits = _digits(words)
    if len(digits) >= 3 and not any(character.isalpha() for character in words):
        ways.append(_begins(phone, f"+{digits}"))
        if len(digits) >= LONG:
            ways.append(_Way(phone, _ends_in(digits.lstrip("0"))))
    keys = [address] if "@" in words else [label, family, address]
    return ways + [_begins(key, form) for key in keys for form in _small(words)]


def _digits(words: str) -> str:
    return "".join(character for character in words if character.isdigit() and character.isascii())


def _begins(key: ColumnElement[str], prefix: str) -> _Way:
    return _Way(key, and_(key >= prefix, key < prefix + _LAST))


def _ends_in(digits: str) -> ColumnElement[bool]:
    """As a number is written in its own country: without the sign and number of the country."""
    indexed = literal_column(schema.PHONE_END) == digits[-7:]
    return and_(indexed, func.substr(_TABLE.c.phone, func.length(_TABLE.c.phone) - (len(digits) - 1)) == digits)


def _small(words: str) -> list[str]:
    """In small letters, as the database makes them: some databases leave `Ö` as it is."""
    words = words[:80]
    return list(dict.fromkeys([words.lower(), *(_ascii_lower(form) for form in (words.title(), words.upper()))]))


def _ascii_lower(words: str) -> str:
    return "".join(character.lower() if character.isascii() else character for character in words)


# -- dialects ------------------------------------------------------------------------------------------


def _by_bytes(connection: Connection, what: str) -> ColumnElement[str]:
    expression = literal_column(what, String)
    return expression if is_sqlite(connection) else collate(expression, "C")


def _filters(connection: Connection, wanted: Wanted) -> list[ColumnElement[bool]]:
    found: list[ColumnElement[bool]] = []
    if wanted.business is not None:
        found.append(_TABLE.c.business_id == wanted.business)
    if wanted.tag is not None:
        found.append(_has_tag(connection, wanted.tag))
    return found


def _has_tag(connection: Connection, tag: str) -> ColumnElement[bool]:
    if not is_sqlite(connection):
        return sql("contacts.tags @> CAST(:tags AS jsonb)").bindparams(tags=to_json([tag]).decode())  # type: ignore[return-value]
    # The text is looked for first, within the index; only where it stands is the JSON read.
    held = "instr(contacts.tags, :text) > 0 AND :tag IN (SELECT value FROM json_each(contacts.tags))"
    return sql(held).bindparams(text=to_json(tag).decode(), tag=tag)  # type: ignore[return-value]
