"""Two small containers: rows kept in order, and a set one can pick from at random.

Both exist so that no page and no random change costs a walk over all contacts.
"""

from __future__ import annotations

import random
from bisect import bisect_left, bisect_right, insort
from collections.abc import Iterable

Row = tuple[int, str]


class DateIndex:
    """Rows `(milliseconds, id)` in ascending order; ties are broken by id."""

    def __init__(self, rows: Iterable[Row] = ()) -> None:
        """Sort the first rows once."""
        self.rows: list[Row] = sorted(rows)

    def __len__(self) -> int:
        return len(self.rows)

    def add(self, row: Row) -> None:
        """Put a row in its place."""
        insort(self.rows, row)

    def remove(self, row: Row) -> None:
        """Take a row out; it must be there."""
        position = bisect_left(self.rows, row)
        if position == len(self.rows) or self.rows[position] != row:
            raise KeyError(row)
        del self.rows[position]

    def span(self, low: int | None, high: int | None) -> tuple[int, int]:
        """Positions `[first, last)` of the rows whose milliseconds lie in `low..high`, both included."""
        first = 0 if low is None else bisect_left(self.rows, (low, ""))
        last = len(self.rows) if high is None else bisect_left(self.rows, (high + 1, ""))
        return first, max(first, last)

    def page(
        self,
        size: int,
        *,
        descending: bool,
        after: Row | None = None,
        skip: int = 0,
        span: tuple[int, int] | None = None,
    ) -> list[Row]:
        """Up to `size` rows behind `after` in the given direction, within `span`."""
        first, last = span if span is not None else (0, len(self.rows))
        if descending:
            if after is not None:
                last = min(last, bisect_left(self.rows, after))
            last -= skip
            return self.rows[max(first, last - size) : max(first, last)][::-1]
        if after is not None:
            first = max(first, bisect_right(self.rows, after))
        first += skip
        return self.rows[first : max(first, min(last, first + size))]


class IdPool:
    """Ids with constant-time adding, removing and picking; the order is a function of the calls alone."""

    def __init__(self) -> None:
        """Start empty."""
        self._ids: list[str] = []
        self._position: dict[str, int] = {}

    def __len__(self) -> int:
        return len(self._ids)

    def add(self, item: str) -> None:
        """Add an id that is not there yet."""
        self._position[item] = len(self._ids)
        self._ids.append(item)

    def discard(self, item: str) -> None:
        """Remove an id if it is there; the last one takes its place."""
        position = self._position.pop(item, None)
        if position is None:
            return
        last = self._ids.pop()
        if last != item:
            self._ids[position] = last
            self._position[last] = position

    def pick(self, rng: random.Random, *, skew: float = 1.0) -> str | None:
        """Any id, or None when empty; a `skew` above 1 prefers the same few again and again."""
        if not self._ids:
            return None
        return self._ids[int(len(self._ids) * rng.random() ** skew)]
