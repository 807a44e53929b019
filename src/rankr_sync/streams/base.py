"""What a stream is: one entity, how it is listed, how its payloads are read and mapped.

A stream owns its paging as plain functions over a *position* (the stream's own cursor, JSON): `request`
makes the next call from it, `parse` reads the answer into a page that carries the next position. Nothing
outside `streams/` knows an entity by name.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from sqlalchemy import Boolean, Date, String, Table

from rankr_sync import plan, schema
from rankr_sync.errors import BadAnswer
from rankr_sync.mapping import FieldMapping, FieldRule
from rankr_sync.model import JsonObject, Known, LocationFacts, Page, Record, Reject, Request
from rankr_sync.part import WHOLE, Part
from rankr_sync.values import BadValue, moment, text
from rankr_sync.visits import CHANGED_CONTACT

_FITTING: tuple[tuple[type, tuple[str, ...]], ...] = (
    (schema.UtcDateTime, ("datetime",)),
    (schema.Json, ("json",)),
    (Date, ("date",)),
    (Boolean, ("boolean",)),
    (String, ("text", "phone")),
)
"""Type of a column, and the rule types whose values it can hold."""

FILLED_BY_US = frozenset({"location_id", "id", "extra", "raw", "digest", "synced_at", "deleted_at", "contact_id"})
"""Columns that no mapping rule may fill."""


@dataclass(frozen=True, slots=True)
class Walk:
    """A listing of a whole location, page by page. `name` is also the shape of its items.

    `marks_progress`: pages come in the order of change, so the newest `updated_at` seen is a watermark.
    `turns_back`: it asks for pages again on purpose, and ends by itself. Any other that is led back to a page
    it has read would go in circles, and is broken off.
    """

    name: str
    request: Callable[[str, JsonObject], Request]
    parse: Callable[[JsonObject, JsonObject], Page]
    begin: Callable[[datetime | None], JsonObject] = lambda since: {}
    marks_progress: bool = False
    turns_back: bool = False
    narrow: Callable[[JsonObject, Part], JsonObject] | None = None
    """The position from which only a part is shown, and perhaps a little more; None where the API cannot."""


@dataclass(frozen=True, slots=True)
class Lookup:
    """A listing of one contact's children, in one answer."""

    request: Callable[[str], Request]
    parse: Callable[[str, JsonObject], Page]


@dataclass(frozen=True, slots=True)
class Single:
    """One child alone, by its contact's id and its own."""

    request: Callable[[str, str], Request]
    parse: Callable[[str, JsonObject], Page]


@dataclass(frozen=True, slots=True)
class Timeline:
    """How a record shows in `contact_timeline` and in a contact's view: by which columns, and as what."""

    kind: str
    at: str
    title: str
    detail: str


@dataclass(frozen=True, slots=True)
class Deadline:
    """A moment of a record at which it is likely to be changed soon, while it has these values."""

    at: str
    of: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Stream:
    """One entity: the only place where it is described."""

    name: str
    table: Table
    fields: Mapping[str, FieldRule]
    normalise: Callable[[JsonObject, LocationFacts], JsonObject]
    walks: tuple[Walk, ...] = ()
    """Ways to list everything, the preferred first; the next one is taken where one is refused."""
    delta: Walk | None = None
    """How to list what changed since a moment, if the API can."""
    lookup: Lookup | None = None
    single: Single | None = None
    """How to read one record alone, where the API can."""
    by_business: Walk | None = None
    """How to list the records of one business: from the position `{"business": id}`."""
    merge: Callable[[Record, Known | None], JsonObject] = lambda record, old: record.raw
    merges: bool = False
    """Whether `merge` looks at the stored payload."""
    is_gone: Callable[[JsonObject], bool] = lambda raw: False
    is_of: Callable[[JsonObject, Part], bool] = lambda content, part: True
    """Whether a record of this content is of a part of the account."""
    owner: bool = False
    """Whether this is the entity that the others belong to."""
    timeline: Timeline | None = None
    """For what belongs to a contact and has its place in time."""
    deadline: Deadline | None = None
    made_at: str | None = None
    """The column that tells when a record was made, where it carries that."""
    changed_at: str | None = None
    """The column that tells when a record was last changed, where it carries that."""
    since: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """Columns that tell since when we have seen a record with these values (with none: at all)."""
    says: Callable[[JsonObject, Known, bool], str] = lambda raw, old, same: CHANGED_CONTACT
    """What an update of a record says of what hangs on it: a signal of `visits`."""

    @property
    def columns(self) -> frozenset[str]:
        """The columns that mapping rules fill."""
        return frozenset(self.table.columns.keys()) - FILLED_BY_US - self.since.keys()

    def check_rule(self, target: str, rule: FieldRule) -> None:
        """Refuse a rule whose type does not fit its column. Raises ValueError with what would fit."""
        if target not in self.columns:
            return
        if target == "updated_at":
            raise ValueError(f"{self.name}.updated_at tells newer from older versions and cannot be mapped")
        fitting = next(types for kind, types in _FITTING if isinstance(self.table.c[target].type, kind))
        if rule.type not in fitting:
            raise ValueError(f"{self.name}.{target} needs a rule of type {' or '.join(fitting)}, not {rule.type}")

    def mapping(self, overrides: Mapping[str, FieldRule], facts: LocationFacts) -> FieldMapping:
        """The compiled field mapping of this stream at a location."""
        return FieldMapping(self.fields, overrides, self.columns, facts)

    def rules(
        self, mapping: FieldMapping, facts: LocationFacts, drop: Iterable[str] = (), part: Part = WHOLE
    ) -> plan.Rules:
        """What `plan` needs to decide about this stream's records. `drop` names paths never to store."""
        paths = tuple(path.split(".") for path in drop)

        def merge(record: Record, old: Known | None) -> JsonObject:
            return without(self.merge(record, old), paths)

        def to_row(raw: JsonObject, content: JsonObject) -> plan.Mapped:
            row, problems = mapping.row({**raw, **content})
            return plan.Mapped(row, problems)

        return plan.Rules(
            merge,
            lambda raw: self.normalise(raw, facts),
            to_row,
            self.is_gone,
            self.says,
            plan.digest(mapping.effective()),
            lambda content: self.is_of(content, part),
        )


def without(raw: JsonObject, paths: Iterable[list[str]]) -> JsonObject:
    """`raw` without the values at `paths`; lists on the way are entered. The original is left as it is."""
    for path in paths:
        if path[0] in raw:
            raw = _drop(raw, path)
    return raw


def _drop(value: Any, path: list[str]) -> Any:
    if isinstance(value, list):
        return [_drop(item, path) for item in value]
    if not isinstance(value, dict) or path[0] not in value:
        return value
    if len(path) == 1:
        return {key: item for key, item in value.items() if key != path[0]}
    return {**value, path[0]: _drop(value[path[0]], path[1:])}


def items_of(payload: JsonObject, envelope: str) -> list[Any]:
    """The list under `envelope`. Raises BadAnswer when it is not there: never an empty list instead."""
    items = payload.get(envelope)
    if not isinstance(items, list):
        raise BadAnswer(f"the answer has no list {envelope!r}", trace_id=trace_id_of(payload))
    return items


def one_of(payload: JsonObject, envelope: str) -> list[Any]:
    """The single object under `envelope`. Raises BadAnswer when it is not there: never a missing record instead."""
    return items_of({**payload, envelope: [payload[envelope]] if payload.get(envelope) else None}, envelope)


def trace_id_of(payload: JsonObject) -> str | None:
    """HighLevel's id of an answer."""
    found = payload.get("traceId")
    return found if isinstance(found, str) else None


def read_records(
    items: Iterable[Any],
    shape: str,
    *,
    contact_id: str | None = None,
    id_keys: tuple[str, ...] = ("id",),
    updated_key: str | None = None,
    belongs: bool = True,
) -> tuple[tuple[Record, ...], tuple[Reject, ...]]:
    """Tell the usable items of a page from those without an id or of another type altogether."""
    records: list[Record] = []
    rejects: list[Reject] = []
    for item in items:
        if not isinstance(item, dict):
            kind = "a list" if isinstance(item, list) else type(item).__name__
            rejects.append(Reject(f"expected an object, got {kind}", item, None, contact_id, shape))
            continue
        found = next((item[key] for key in id_keys if item.get(key) not in (None, "")), None)
        try:
            external_id = text(found)
            owner = contact_id or (text(item.get("contactId")) if belongs else None)
        except BadValue as error:
            rejects.append(Reject(f"unusable id: {error}", item, None, contact_id, shape))
            continue
        if not external_id:
            rejects.append(Reject("no id", item, None, contact_id, shape))
            continue
        if len(external_id) > 64 or len(owner or "") > 64:
            rejects.append(Reject("id longer than 64 characters", item, None, contact_id, shape))
            continue
        records.append(Record(external_id, item, shape, owner, moment_or_none(item, updated_key)))
    return tuple(records), tuple(rejects)


def each_once(items: Iterable[Any], id_keys: tuple[str, ...] = ("id",)) -> list[Any]:
    """The items of a page without those that it shows again; what has no id is kept."""
    shown: set[str] = set()
    kept: list[Any] = []
    for item in items:
        id_ = next((item[key] for key in id_keys if item.get(key)), None) if isinstance(item, dict) else None
        if id_ is None:
            kept.append(item)
        elif str(id_) not in shown:
            kept.append(item)
            shown.add(str(id_))
    return kept


def moment_or_none(item: JsonObject, key: str | None) -> datetime | None:
    """The moment under `key`, None where there is none that can be read."""
    try:
        return moment(item.get(key)) if key else None
    except BadValue:
        return None
