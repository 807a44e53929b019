"""Filters, order and pages of `POST /contacts/search`. Reads the search index, knows no HTTP.

A page that needs no more than the date indices is cut out of them; anything else is computed once and kept until the
index changes.
"""

from __future__ import annotations

import json
from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Callable, Iterable
from functools import cmp_to_key
from typing import TYPE_CHECKING, Any, NamedTuple

from .errors import bad
from .filters import Predicate, business_name, date_span, free_text, parse_filters
from .index import Entry
from .times import epoch_ms

if TYPE_CHECKING:
    from .world import Location

DEEPEST_PAGE = 10_000
DATE_FIELDS = ("dateAdded", "dateUpdated")
Order = tuple[tuple[str, bool], ...]
"""(field, descending), at most two."""


class Hit(NamedTuple):
    """A contact of the page, with the values of its own cursor."""

    entry: Entry
    sort_values: list[Any]


class Query(NamedTuple):
    """A search, checked."""

    filters: list[Any]
    text: str
    order: Order
    size: int
    page: int
    after: list[Any] | None


SORT_VALUES: dict[str, Callable[[Entry, Location], Any]] = {
    "dateAdded": lambda entry, _: entry.added,
    "dateUpdated": lambda entry, _: entry.updated,
    "firstNameLowerCase": lambda entry, _: entry.record.get("firstNameLowerCase"),
    "lastNameLowerCase": lambda entry, _: entry.record.get("lastNameLowerCase"),
    "businessName": business_name,
    "email": lambda entry, _: entry.record.get("emailLowerCase"),
    "dnd": lambda entry, _: int(bool(entry.record.get("dnd"))),
    "source": lambda entry, _: entry.record.get("source"),
}


class Searcher:
    """Answers searches on one location; remembers the last few results."""

    def __init__(self, location: Location, remember: int = 8) -> None:
        """Search this location's index."""
        self._location = location
        self._remember = remember
        self._results: OrderedDict[str, tuple[int, list[Ranked]]] = OrderedDict()

    def run(self, query: Query) -> tuple[list[Hit], int]:
        """The page and the total number of matches."""
        predicate = parse_filters(query.filters)
        if len(query.order) == 1 and query.order[0][0] in DATE_FIELDS and not query.text:
            field, descending = query.order[0]
            span = date_span(query.filters, field)
            if span is not None:
                return self._from_date_index(query, field, descending, span)
        return self._from_ranking(query, predicate)

    def _from_date_index(
        self, query: Query, field: str, descending: bool, bounds: tuple[int | None, int | None]
    ) -> tuple[list[Hit], int]:
        index = self._location.index
        dates = index.added if field == "dateAdded" else index.updated
        span = dates.span(*bounds)
        after = None if query.after is None else (_cursor_date(query.after[0]), str(query.after[1]))
        skip = (query.page - 1) * query.size
        rows = dates.page(query.size, descending=descending, after=after, skip=skip, span=span)
        return [Hit(index.entries[key], [ms]) for ms, key in rows], span[1] - span[0]

    def _from_ranking(self, query: Query, predicate: Predicate) -> tuple[list[Hit], int]:
        ranked = self._ranking(query, predicate)
        first = (query.page - 1) * query.size
        if query.after is not None:
            compare = cmp_to_key(_comparison(query.order))
            values = [
                _cursor_date(value) if field in DATE_FIELDS else value
                for value, (field, _) in zip(query.after, query.order, strict=False)
            ]
            cursor = Ranked(values, str(query.after[-1]), None)
            first = bisect_right(ranked, compare(cursor), key=compare)
        page = ranked[first : first + query.size]
        return [Hit(row.entry, row.values) for row in page if row.entry is not None], len(ranked)

    def _ranking(self, query: Query, predicate: Predicate) -> list[Ranked]:
        index = self._location.index
        key = json.dumps([query.filters, query.text, query.order], sort_keys=True)
        kept = self._results.get(key)
        if kept is not None and kept[0] == index.version:
            self._results.move_to_end(key)
            return kept[1]
        text = free_text(query.text)
        matches = (
            entry
            for entry in self._candidates(query.filters)
            if predicate(entry, self._location) and text(entry, self._location)
        )
        ranked = rank(matches, query.order, self._location)
        self._results[key] = (index.version, ranked)
        while len(self._results) > self._remember:
            self._results.popitem(last=False)
        return ranked

    def _candidates(self, filters: list[Any]) -> Iterable[Entry]:
        index = self._location.index
        for field, dates in (("dateUpdated", index.updated), ("dateAdded", index.added)):
            ranges = [item for item in filters if isinstance(item, dict) and item.get("field") == field]
            span = date_span(ranges, field) if ranges else None
            if span is not None:
                first, last = dates.span(*span)
                return [index.entries[key] for _, key in dates.rows[first:last]]
        return index.entries.values()


class Ranked(NamedTuple):
    """A match with the values it is ordered by."""

    values: list[Any]
    id: str
    entry: Entry | None


def rank(entries: Iterable[Entry], order: Order, location: Location) -> list[Ranked]:
    """In order; missing values come last either way, ties go by id in the direction of the first field."""
    getters = [SORT_VALUES[field] for field, _ in order]
    rows = [Ranked([get(entry, location) for get in getters], entry.record["id"], entry) for entry in entries]
    rows.sort(key=lambda row: row.id, reverse=order[0][1])
    for position, (_, descending) in reversed(list(enumerate(order))):
        rows.sort(key=_rank_key(position, descending), reverse=descending)
    return rows


def _rank_key(position: int, descending: bool) -> Callable[[Ranked], tuple[bool, Any]]:
    def key(row: Ranked) -> tuple[bool, Any]:
        value = row.values[position]
        return ((value is None) != descending, 0 if value is None else value)

    return key


def _comparison(order: Order) -> Callable[[Ranked, Ranked], int]:
    def compare(left: Ranked, right: Ranked) -> int:
        for a, b, (_, descending) in zip(left.values, right.values, order, strict=False):
            if a == b:
                continue
            if a is None or b is None:
                return 1 if a is None else -1
            return (1 if a > b else -1) * (-1 if descending else 1)
        if left.id == right.id:
            return 0
        return (1 if left.id > right.id else -1) * (-1 if order[0][1] else 1)

    return compare


def _cursor_date(value: Any) -> int:
    ms = epoch_ms(value)
    if ms is None:
        raise bad("Invalid searchAfter value")
    return ms
