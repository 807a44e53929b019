"""Finding contacts in the store: by name, address, number, tag and business, page after page, each once."""

import itertools
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import pytest
from sqlalchemy import insert

from rankr_sync import schema
from rankr_sync.store import SqlStore
from rankr_sync.store.contacts import Wanted, count_contacts, list_contacts

NOW = datetime(2026, 9, 1, 12, 0, tzinfo=UTC)
PEOPLE = [
    ("ada", "Ada", "Lovelace", "ada@example.com", "+14155550101", ["vip"], "b1"),
    ("ben", "Ben", "Adams", "ben@example.com", "+14155550102", ["lead"], None),
    ("oez", "Ömer", "Özil", "oez@example.com", "+41791234567", ["vip", "lead"], "b1"),
    ("low", "ömer", "çelik", "celik@example.com", None, ['x"vip'], None),
    ("non", None, None, "adele@example.com", None, [], "b2"),
    ("ano", None, None, None, "+493012345678", [], None),
]


@pytest.fixture
def store(database_url: str) -> Iterator[SqlStore]:
    """A store with a few people in one location, and one of them in another."""
    made = SqlStore(database_url)
    made.upgrade()
    with made.transaction() as tx:
        tx.connection.execute(insert(schema.contacts), [_row("here", *person) for person in PEOPLE])
        tx.connection.execute(insert(schema.contacts), [_row("there", *PEOPLE[0])])
    yield made
    made.close()


def _row(
    location: str, id_: str, first: str | None, last: str | None, email: Any, phone: Any, tags: Any, business: Any
) -> dict[str, Any]:
    name = f"{first} {last}" if first else None
    own = {
        "name": name,
        "first_name": first,
        "last_name": last,
        "email": email,
        "phone": phone,
        "business_id": business,
    }
    rest = {"tags": tags, "custom_fields": [], "extra": {}, "raw": {}, "digest": "x", "synced_at": NOW}
    return {"location_id": location, "id": id_, **own, **rest}


def found(store: SqlStore, wanted: Wanted, limit: int = 50, after: str | None = None) -> list[str]:
    """The ids, in order."""
    with store.reading() as tx:
        return [row["id"] for row in list_contacts(tx.connection, "here", wanted, limit=limit, after=after)]


WORDS = {
    "ada": ["ada", "ben"],  # by name, then by family name
    "  ADA   love ": ["ada"],
    "ad": ["ada", "non", "ben"],  # whoever has no name is called by the address
    "ben@EXAMPLE": ["ben"],
    "celik@": ["low"],
    "Ömer": ["oez", "low"],
    "ömer": ["oez", "low"],
    "özil": ["oez"],
    "+1 (415) 555-01": ["ada", "ben"],
    "415 555 0102": ["ben"],
    "079 123 45 67": ["oez"],
    "0791234568": [],
    "oez": ["oez"],  # an id, and the beginning of an address: once
    "%": [],
    "_da": [],
}


def test_words_find_what_begins_with_them(store: SqlStore) -> None:
    """Names in any case and addresses, numbers in any punctuation, ids; nothing that stands in the middle."""
    assert {words: sorted(found(store, Wanted(words))) for words in WORDS} == {w: sorted(i) for w, i in WORDS.items()}
    assert found(store, Wanted("ad")) == WORDS["ad"]
    with store.reading() as tx:
        assert {w: count_contacts(tx.connection, "here", Wanted(w)) for w in WORDS} == {
            w: len(i) for w, i in WORDS.items()
        }


def test_tags_and_businesses_narrow(store: SqlStore) -> None:
    """A tag is compared as a whole; with words both must be true."""
    assert found(store, Wanted(tag="vip")) == ["ada", "oez"]
    assert found(store, Wanted(tag="vi")) == []
    assert found(store, Wanted(tag='x"vip')) == ["low"]
    assert found(store, Wanted(business="b1")) == ["ada", "oez"]
    assert found(store, Wanted("ada", tag="vip")) == ["ada"]
    assert found(store, Wanted(tag="lead", business="b1")) == ["oez"]


def test_pages_show_each_once(store: SqlStore) -> None:
    """Page after page, of any length, is the whole list."""
    some = [Wanted(), Wanted("ad"), Wanted("ömer"), Wanted(tag="vip")]
    for wanted, length in itertools.product(some, (1, 2, 3)):
        whole = found(store, wanted)
        pages, after = [], None
        while page := found(store, wanted, length, after):
            pages += page
            after = page[-1]
        assert pages == whole


def test_a_tombstone_is_listed_and_can_be_told(store: SqlStore) -> None:
    """What is gone at the source is still found, with the time it was noticed."""
    with store.transaction() as tx:
        tx.connection.execute(schema.contacts.update().where(schema.contacts.c.id == "ada").values(deleted_at=NOW))
    with store.reading() as tx:
        row = list_contacts(tx.connection, "here", Wanted("ada l"), limit=5)[0]
    assert row["deleted_at"] == NOW
    assert "raw" not in row


def test_counting_ends_where_it_is_told(store: SqlStore) -> None:
    """A count never walks a whole large account."""
    with store.reading() as tx:
        assert count_contacts(tx.connection, "here", Wanted(), most=3) == 3
        assert count_contacts(tx.connection, "here", Wanted()) == len(PEOPLE)
