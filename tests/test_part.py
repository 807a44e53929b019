"""A mirror of a part (`[only]`): members and all that is theirs, nothing of anybody else, whoever comes and goes."""

import asyncio
import json
import random
from collections.abc import Callable, Iterable
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import pytest

from mirror import EXPECTED, LOCATION, account, backfill, calls, configuration, query, rows, run
from rankr_sync.config import Config, Only
from rankr_sync.engine import LocationSync, Progress
from rankr_sync.errors import Interrupted, PartEmpty
from rankr_sync.model import Known, LocationFacts, Page, Record
from rankr_sync.part import WHOLE, Part
from rankr_sync.plan import plan_page
from rankr_sync.sandbox import Sandbox, SandboxOptions, create_app
from rankr_sync.streams import STREAMS
from rankr_sync.streams.contacts import search_narrow, search_request

FACTS = LocationFacts("loc")
VIP = Only(tags=("VIP",))
BUSINESS = "66f0a1b2c3d4e5f601234567"


def a_third(sandbox: Sandbox, tag: str = "vip") -> list[str]:
    """Tag every third contact, and nobody else."""
    ids = sorted(sandbox.truth(LOCATION)["contacts"])
    for place, id_ in enumerate(ids):
        tags = [tag, "other"] if place % 3 == 0 else [f"no {tag}"]
        sandbox.update_contact(id_, tags=tags, businessId=BUSINESS if place % 10 == 1 else None)
    return ids[::3]


def members(sandbox: Sandbox, only: Only) -> set[str]:
    """The contacts of the account that are of the part."""
    tags, businesses = {tag.lower() for tag in only.tags}, set(only.businesses)
    return {
        id_
        for id_, one in sandbox.truth(LOCATION)["contacts"].items()
        if not (tags or businesses)
        or tags & {tag.lower() for tag in one["tags"]}
        or one.get("businessId") in businesses
    }


def differences(sandbox: Sandbox, url: str, only: Only) -> list[str]:
    """What the living rows are other than the members and what is theirs; [] when they are equal."""
    inside, found = members(sandbox, only), []
    for stream, records in sandbox.truth(LOCATION).items():
        true = {id_: one for id_, one in records.items() if one.get("contactId", id_) in inside}
        mirror = rows(url, stream)
        found += [f"{stream} {id_} is missing" for id_ in true.keys() - mirror.keys()]
        found += [f"{stream} {id_} is too much" for id_ in mirror.keys() - true.keys()]
        for id_ in true.keys() & mirror.keys():
            expected = EXPECTED[stream](true[id_])
            found += [f"{stream} {id_}.{name}" for name, value in expected.items() if mirror[id_][name] != value]
    return found


def poll(sandbox: Sandbox, config: Config, **options: Any) -> None:
    """One round of what the daemon does."""

    async def work(sync: LocationSync) -> None:
        await sync.poll("contacts")
        await sync.visit_due()

    run(sandbox, config, work, **options)


# -- which contacts ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("part", "tags", "business", "held"),
    [
        (Part.of([], []), [], None, True),
        (Part.of(["VIP "], []), ["vip"], None, True),
        (Part.of(["vip"], []), ["Vip"], None, True),
        (Part.of(["vip"], []), ["no vip"], None, False),
        (Part.of(["vip"], ["b"]), [], "b", True),
        (Part.of([], ["b"]), ["b"], None, False),
        (Part.of([], ["b"]), [], "B", False),
    ],
)
def test_who_is_of_the_part(part: Part, tags: Iterable[str], business: str | None, held: bool) -> None:
    """One of the tags, in any case, or one of the businesses, by its exact id; nothing named: everybody."""
    assert part.holds(tags, business) is held
    assert part.is_whole == (part == WHOLE)


def test_a_page_tells_who_leaves_and_stores_nobody_from_outside() -> None:
    """A stranger is no row; a member that has lost its tag is updated and told, not tombstoned: a page is no proof."""
    stream = STREAMS["contacts"]
    rules = stream.rules(stream.mapping({}, FACTS), FACTS, part=Part.of(["vip"], []))
    records = [Record(id_, {"id": id_, "tags": tags}, "search") for id_, tags in (("a", []), ("b", ["vip"]), ("c", []))]
    known = {"c": Known("c", "old", raw={"tags": ["vip"]}), "gone": Known("gone", "old", deleted=True, raw={})}
    plan = plan_page(Page((*records, Record("gone", {"id": "gone"}, "search"))), known, rules)
    assert [row["id"] for row in plan.inserts] == ["b"]
    assert [row["id"] for row in plan.updates] == ["c"]
    assert (plan.leaving, plan.tombstones, plan.fetched, plan.unchanged) == (("c",), (), 4, 2)


def test_the_server_filters_where_it_can() -> None:
    """A full pass by search asks for the part only; a poll does not, for it must show who leaves."""
    part = Part.of(["vip"], ["b"])
    body = search_request("loc", search_narrow({}, part)).body or {}
    assert body["filters"] == [
        {
            "group": "OR",
            "filters": [
                {"field": "tags", "operator": "contains", "value": "vip"},
                {"field": "businessId", "operator": "eq", "value": "b"},
            ],
        }
    ]
    assert search_narrow({}, WHOLE) == search_narrow({}, Part.of(["x" * 76], [])) == {}


# -- the mirror ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("listing", ["list", "search"])
def test_only_members_are_mirrored_with_what_is_theirs(database_url: str, listing: str) -> None:
    """Their children too, and no request for anybody else's; a second copy writes nothing."""
    sandbox = account(30)
    inside = a_third(sandbox)
    config = configuration(database_url, only=VIP, api={"listing": listing})
    backfill(sandbox, config)
    assert rows(database_url, "contacts").keys() == set(inside)
    assert differences(sandbox, database_url, VIP) == []
    assert calls(sandbox, "/tasks/search") == 0
    assert calls(sandbox, "/notes") == calls(sandbox, "/tasks") == len(inside)
    written = query(database_url, "SELECT max(synced_at) AS at FROM contacts")
    backfill(sandbox, config)
    assert query(database_url, "SELECT max(synced_at) AS at FROM contacts") == written
    assert query(database_url, "SELECT * FROM sync_settings WHERE key LIKE 'held:%'") == []


def test_a_filtered_pass_asks_for_the_part_only(sqlite_url: str) -> None:
    """With the search open, a full pass takes pages of members, not of the account."""
    sandbox = account(450)
    for id_ in sorted(sandbox.truth(LOCATION)["contacts"])[:30]:
        sandbox.update_contact(id_, tags=["vip"])
    before = sandbox.stats()["requests"]
    backfill(sandbox, configuration(sqlite_url, only=VIP, streams=("contacts",)))
    assert len(rows(sqlite_url, "contacts")) == len(members(sandbox, VIP))
    assert calls(sandbox, "/contacts/search") <= 2
    assert calls(sandbox, "/contacts/") == 0
    assert sandbox.stats()["requests"] - before <= 5


def test_who_leaves_is_tombstoned_and_who_enters_is_read_in_full(database_url: str) -> None:
    """By a poll: with all children, and the reason can be told; who comes back is alive again, with its children."""
    sandbox = account(30)
    inside = a_third(sandbox)
    config = configuration(database_url, only=VIP)
    backfill(sandbox, config)
    outside = sorted(sandbox.truth(LOCATION)["contacts"].keys() - set(inside))
    leaver, entrant = inside[0], outside[0]
    sandbox.create_note(leaver, body="<p>hers</p>")
    sandbox.create_note(entrant, body="<p>his</p>")
    sandbox.update_contact(leaver, tags=["other"])
    sandbox.update_contact(entrant, tags=["Vip"])
    sandbox.update_contact(outside[1], tags=["vipers"])
    poll(sandbox, config)
    assert differences(sandbox, database_url, VIP) == []
    assert set(rows(database_url, "contacts", deleted=True)) == {leaver}
    assert rows(database_url, "contacts", deleted=True)[leaver]["tags"] == ["other"]
    assert query(database_url, f"SELECT * FROM child_visits WHERE contact_id = '{leaver}'") == []
    sandbox.update_contact(leaver, tags=["vip"])
    poll(sandbox, config)
    assert differences(sandbox, database_url, VIP) == []


@pytest.mark.parametrize("listing", ["list", "search"])
def test_a_full_pass_finds_who_came_and_went_unseen(database_url: str, listing: str) -> None:
    """A tag that moved no time of change is found by the next full pass, as well as who is gone altogether."""
    sandbox = account(36)
    inside = a_third(sandbox)
    config = configuration(database_url, only=VIP, api={"listing": listing}, deletions={"brake": 30})
    backfill(sandbox, config)
    location, at_ms = sandbox.locations[LOCATION], round(datetime.now(UTC).timestamp() * 1000)
    outside = sorted(sandbox.truth(LOCATION)["contacts"].keys() - set(inside))
    location.update_contact(at_ms, inside[0], {"tags": []}, bump=False)
    location.update_contact(at_ms, outside[0], {"tags": ["vip"]}, bump=False)
    sandbox.delete_contact(inside[1])
    backfill(sandbox, config)
    assert differences(sandbox, database_url, VIP) == []
    assert set(rows(database_url, "contacts", deleted=True)) == set(inside[:2])


# -- a part that is changed ----------------------------------------------------------------------------


def test_a_changed_part_is_taken_up(database_url: str) -> None:
    """Narrowed, widened, another, and back to all: no brake, no request a contact, and a new full pass each time."""
    sandbox = account(24)
    a_third(sandbox)
    whole = configuration(database_url)
    backfill(sandbox, whole)
    for only in (VIP, Only(tags=("vip",), businesses=(BUSINESS,)), Only(businesses=(BUSINESS,)), Only(), VIP):
        before = calls(sandbox, "/{contactId}")
        backfill(sandbox, configuration(database_url, only=only))
        assert differences(sandbox, database_url, only) == []
        assert calls(sandbox, "/{contactId}") == before
    assert query(database_url, "SELECT * FROM sync_settings WHERE key LIKE 'held:%'") == []
    parts = query(database_url, "SELECT deleted FROM sync_runs WHERE kind = 'part' ORDER BY id")
    assert [run["deleted"] for run in parts][:2] == [16, 0]


def test_a_pass_of_another_part_is_not_gone_on_with(database_url: str) -> None:
    """A full pass that was cut off while its filter said something else begins anew."""
    sandbox = account(250)
    for place, id_ in enumerate(sorted(sandbox.truth(LOCATION)["contacts"])):
        sandbox.update_contact(id_, tags=["vip"] if place % 10 else ["other"])
    vip = configuration(database_url, only=VIP, streams=("contacts",))
    with pytest.raises(Interrupted):
        run(
            sandbox,
            vip,
            lambda sync: sync.backfill(["contacts"]),
            on_progress=stopping(stop := asyncio.Event()),
            stop=stop,
        )
    assert 0 < len(rows(database_url, "contacts")) < 225
    other = Only(tags=("other",))
    config = configuration(database_url, only=other, streams=("contacts",))
    backfill(sandbox, config, confirm_deletions=True)
    assert rows(database_url, "contacts").keys() == members(sandbox, other)


def test_a_part_that_nobody_is_of_waits_for_a_word(database_url: str) -> None:
    """A mistyped tag removes nobody and asks nothing; confirmed, or corrected, it is taken up."""
    sandbox, mistyped = account(24), Only(tags=("viip",))
    inside = a_third(sandbox)
    backfill(sandbox, configuration(database_url, only=mistyped, streams=("contacts",)))
    backfill(sandbox, configuration(database_url, only=VIP))
    assert rows(database_url, "contacts").keys() == set(inside)
    with pytest.raises(PartEmpty) as caught:
        backfill(sandbox, configuration(database_url, only=mistyped))
    assert caught.value.exit_code == 2
    assert differences(sandbox, database_url, VIP) == []
    backfill(sandbox, configuration(database_url, only=VIP))
    assert differences(sandbox, database_url, VIP) == []
    for confirmed in (True, False):  # the word is asked for once
        backfill(sandbox, configuration(database_url, only=mistyped), confirm_deletions=confirmed)
        assert rows(database_url, "contacts") == {}


def stopping(stop: asyncio.Event) -> Callable[[Progress], None]:
    """Asks the program to end at its first page."""
    return lambda progress: stop.set() if progress.streams["contacts"].inserted else None


# -- faults --------------------------------------------------------------------------------------------


class Untagged(httpx.AsyncBaseTransport):
    """Lists and searches forget all tags and businesses, as a fault of the API would."""

    def __init__(self, sandbox: Sandbox) -> None:
        self._inner = httpx.ASGITransport(create_app(sandbox))

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Answer."""
        response = await self._inner.handle_async_request(request)
        if request.url.path not in ("/contacts/", "/contacts/search"):
            return response
        payload = json.loads(await response.aread())
        for one in payload.get("contacts", []):
            one |= {"tags": [], "businessId": None}
        return httpx.Response(response.status_code, json=payload)


@pytest.mark.parametrize("listing", ["list", "search"])
def test_an_api_that_forgets_all_tags_narrows_nothing(database_url: str, listing: str) -> None:
    """The brake holds everybody; when the tags are back, nothing is left of it."""
    sandbox = account(36)
    a_third(sandbox)
    config = configuration(database_url, only=VIP, api={"listing": listing})
    backfill(sandbox, config)
    backfill(sandbox, config, transport=Untagged(sandbox))
    assert rows(database_url, "contacts", deleted=True) == {}
    held = query(database_url, "SELECT key FROM sync_settings WHERE key LIKE 'held:%'")
    assert held
    backfill(sandbox, config)
    assert differences(sandbox, database_url, VIP) == []
    assert query(database_url, "SELECT key FROM sync_settings WHERE key LIKE 'held:%'") == []


def test_one_answer_without_tags_costs_one_look(database_url: str) -> None:
    """Who seems to have left is looked at directly, and stays."""
    sandbox = account(30)
    inside = a_third(sandbox)
    config = configuration(database_url, only=VIP)
    backfill(sandbox, config)
    sandbox.update_contact(inside[0], city="Basel")
    before = calls(sandbox, "/{contactId}")
    poll(sandbox, config, transport=Untagged(sandbox))
    assert calls(sandbox, "/{contactId}") - before > 0
    assert differences(sandbox, database_url, VIP) == []


def test_a_refresh_of_a_stranger_stores_nothing(database_url: str) -> None:
    """Neither the contact nor its children; and of a member everything, as ever."""
    sandbox = account(30)
    inside = a_third(sandbox)
    stranger = sorted(sandbox.truth(LOCATION)["contacts"].keys() - set(inside))[0]
    config = configuration(database_url, only=VIP)
    for id_ in (stranger, inside[0]):
        sandbox.create_note(id_, body="<p>new</p>")
        assert run(sandbox, config, lambda sync, id_=id_: sync.refresh(id_))
    assert rows(database_url, "contacts").keys() == {inside[0]}
    assert {row["contact_id"] for row in rows(database_url, "notes").values()} == {inside[0]}


def test_whoever_comes_and_goes_the_part_is_mirrored(sqlite_url: str) -> None:
    """Tags, businesses, children and the part itself change in any order, between polls and passes."""
    chance, now = random.Random(1), [datetime.now(UTC)]
    sandbox = Sandbox(SandboxOptions(contacts=24, rate_limit=None), now=now[0].timestamp)
    a_third(sandbox)
    only = VIP
    edits: tuple[Callable[[str], Any], ...] = (
        lambda id_: sandbox.update_contact(id_, tags=["vip"]),
        lambda id_: sandbox.update_contact(id_, tags=["other"]),
        lambda id_: sandbox.update_contact(id_, businessId=BUSINESS),
        lambda id_: sandbox.create_note(id_, body="<p>x</p>"),
        lambda id_: sandbox.create_task(id_, title="Call"),
        lambda id_: sandbox.update_contact(id_, firstName="Zoë"),
    )
    for _ in range(8):
        now[0] += timedelta(minutes=2)
        for _ in range(chance.randrange(4)):
            chance.choice(edits)(chance.choice(sorted(sandbox.truth(LOCATION)["contacts"])))
        if chance.random() < 0.3:
            only = chance.choice((VIP, Only(tags=("other", "vip")), Only(businesses=(BUSINESS,)), Only()))
        config = configuration(sqlite_url, only=only, deletions={"brake": 100})
        chance.choice((poll, backfill))(sandbox, config, now=lambda: now[0])
    config = configuration(sqlite_url, only=only, deletions={"brake": 100})
    now[0] += timedelta(days=1)
    backfill(sandbox, config, now=lambda: now[0])
    assert differences(sandbox, sqlite_url, only) == []
