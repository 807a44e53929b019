"""Endpoints that read contacts: by id, listed, searched, by business, by duplicate."""

from __future__ import annotations

from typing import Any
from urllib.parse import urlencode

from .errors import bad, invalid
from .reference import Record
from .routing import Answer, Request, Route
from .search import DEEPEST_PAGE, SORT_VALUES, Order, Query
from .shapes import contact_by_id, contact_in_list, contact_in_search
from .times import epoch_ms
from .writing import find_duplicate

LONGEST_PAGE = 500
LONGEST_QUERY = 75


def get_contact(request: Request) -> Answer:
    """One contact."""
    contact_id = request.contact_id()
    payload = contact_by_id(request.location.contacts[contact_id], request.version)
    return 200, {"contact": request.sandbox.served("contacts", contact_id, payload)}


def list_contacts(request: Request) -> Answer:
    """`dateAdded` descending, behind a cursor of two values."""
    location, query = request.location, request.query
    size = request.number("limit", 20, 100)
    after_text, after_id = query.get("startAfter"), query.get("startAfterId")
    after = None
    # Half a cursor is no cursor: page 1 again, for ever (pipedream#21941).
    if after_text and after_id:
        ms = epoch_ms(after_text)
        if ms is None:
            raise invalid("startAfter must be a number string")
        after = (ms, after_id)
    rows = location.listing.rows
    if query.get("query"):
        needle = query["query"].lower()
        rows = [row for row in rows if _mentions(location.contacts[row[1]], needle)]
        behind = [row for row in reversed(rows) if after is None or row < after]
        page, more = behind[:size], len(behind) > size
    else:
        page = location.listing.page(size, descending=True, after=after)
        more = bool(page and location.listing.page(1, descending=True, after=page[-1]))
    items = [
        request.sandbox.served("contacts", key, contact_in_list(location.contacts[key], request.version))
        for _, key in page
    ]
    meta = _meta(request, len(rows), page[-1] if page and more else None, after is None)
    return 200, {"contacts": items, "count": len(rows), "meta": meta}


def _mentions(record: Record, needle: str) -> bool:
    keys = ("fullNameLowerCase", "emailLowerCase", "phone", "companyName")
    return any(needle in str(record.get(key, "")).lower() for key in keys)


def _meta(request: Request, total: int, last: tuple[int, str] | None, first_page: bool) -> Record:
    current = 1 if first_page else 2  # cursors know no page numbers; real answers count on
    meta: Record = {"total": total, "nextPageUrl": None, "startAfterId": None, "startAfter": None}
    if last is not None:
        cursor = {"startAfter": last[0], "startAfterId": last[1]}
        url = urlencode({**request.query, **cursor})
        meta |= cursor | {"nextPageUrl": f"http://{request.host}/contacts/?{url}"}
    meta |= {"currentPage": current, "nextPage": None if last is None else current + 1}
    return meta | {"prevPage": None if first_page else current - 1}


def search_contacts(request: Request) -> Answer:
    """The search with filters, sorting and a cursor in each item."""
    location = request.location
    query = _checked(request.fields())
    location.index.settle(request.at_ms)
    try:
        hits, total = request.sandbox.searchers[location.id].run(query)
    except TypeError:
        raise bad("Invalid searchAfter value") from None
    served = request.sandbox.served
    items = [
        served(
            "contacts", hit.entry.record["id"], contact_in_search(hit.entry, location, request.version, hit.sort_values)
        )
        for hit in hits
    ]
    return 200, {"contacts": items, "total": total}


def _checked(body: Record) -> Query:
    size = body.get("pageLimit")
    if not isinstance(size, int) or isinstance(size, bool):
        raise invalid("pageLimit must be a number conforming to the specified constraints")  # docs#31
    if not 1 <= size <= LONGEST_PAGE:
        raise invalid(f"pageLimit must be between 1 and {LONGEST_PAGE}")
    page, after = body.get("page"), body.get("searchAfter")
    if page is not None and (not isinstance(page, int) or isinstance(page, bool) or page < 1):
        raise invalid("page must not be less than 1")
    if page is not None and after is not None:
        raise bad("page and searchAfter cannot be used together")
    if page is not None and page * size > DEEPEST_PAGE:
        raise bad(f"page reaches only the first {DEEPEST_PAGE} records, use searchAfter")
    text = body.get("query") or ""
    if not isinstance(text, str) or len(text) > LONGEST_QUERY:
        raise bad(f"query must be a text of at most {LONGEST_QUERY} characters")
    order = _order(body.get("sort"))
    if after is not None and (not isinstance(after, list) or len(after) != len(order) + 1):
        raise bad("searchAfter must hold the sort values and the id of the last contact")
    return Query(body.get("filters") or [], text, order, size, page or 1, after)


def _order(sort: Any) -> Order:
    if not sort:
        return (("dateAdded", True),)
    if not isinstance(sort, list) or len(sort) > 2 or not all(isinstance(item, dict) for item in sort):
        raise bad("sort must be an array of at most 2 objects")
    for item in sort:
        if item.get("field") not in SORT_VALUES:
            raise bad(f"Invalid sort field {item.get('field')}")
        if item.get("direction", "asc") not in ("asc", "desc"):
            raise bad(f"Invalid sort direction {item.get('direction')}")
    return tuple((item["field"], item.get("direction", "asc") == "desc") for item in sort)


def search_duplicate(request: Request) -> Answer:
    """The contact that has this e-mail or number already."""
    email, phone = request.query.get("email"), request.query.get("number")
    if not email and not phone:
        raise bad("Either email or number is required")
    record = find_duplicate(request.location, email, phone)
    if record is None:
        return 200, {"contact": None}
    payload = request.sandbox.served("contacts", record["id"], contact_by_id(record, request.version))
    return 200, {"contact": payload, "matchingField": "contactId"}


def contacts_of_business(request: Request) -> Answer:
    """Contacts that belong to a business, by name."""
    location, business_id = request.location, request.params["businessId"]
    size, skip = request.number("limit", 25, 100), request.number("skip", 0, 10**9)
    needle = request.query.get("query", "").lower()
    found = [
        record
        for record in location.contacts.values()
        if record.get("businessId") == business_id and (not needle or _mentions(record, needle))
    ]
    found.sort(key=lambda record: (record.get("fullNameLowerCase", ""), record["id"]))
    page = found[skip : skip + size]
    served = request.sandbox.served
    items = [served("contacts", item["id"], contact_by_id(item, request.version)) for item in page]
    answer: Record = {"contacts": items, "count": len(found)}
    if request.version == "v3" and page and skip + size < len(found):
        answer["startAfter"] = [page[-1].get("fullNameLowerCase"), page[-1]["id"]]
    return 200, answer


READ = "contacts.readonly"
ROUTES = (
    Route("GET", "/contacts/", READ, "query", list_contacts, gone_in_v3=True),
    Route("POST", "/contacts/search", READ, "body", search_contacts),
    Route("GET", "/contacts/search/duplicate", READ, "query", search_duplicate),
    Route("GET", "/contacts/business/{businessId}", READ, "query", contacts_of_business),
    Route("GET", "/contacts/{contactId}", READ, "contact", get_contact),
)
