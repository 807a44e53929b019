"""Endpoints of what records refer to: the location, its custom fields, tags, businesses and users."""

from __future__ import annotations

from .errors import bad
from .routing import Answer, Request, Route


def get_location(request: Request) -> Answer:
    """The location itself, with the time zone that zone-less times are in."""
    return 200, {"location": request.location.reference.profile}


def list_custom_fields(request: Request) -> Answer:
    """Definitions of custom fields, unpaged."""
    model = request.query.get("model", "all")
    if model not in ("contact", "opportunity", "all"):
        raise bad("model must be one of contact, opportunity, all")
    fields = request.location.reference.custom_fields
    return 200, {"customFields": [item for item in fields if model in ("all", item["model"])]}


def list_tags(request: Request) -> Answer:
    """Tags with their ids; contacts carry the names."""
    return 200, {"tags": request.location.reference.tags}


def list_businesses(request: Request) -> Answer:
    """Businesses, by skip and limit."""
    size, skip = request.number("limit", 100, 1000), request.number("skip", 0, 10**9)
    businesses = list(request.location.reference.businesses.values())
    return 200, {"businesses": businesses[skip : skip + size]}


def get_business(request: Request) -> Answer:
    """One business."""
    business_id = request.params["businessId"]
    business = request.location.reference.businesses.get(business_id)
    if business is None:
        raise request.not_found("Business", business_id)
    return 200, {"business": business}


def list_users(request: Request) -> Answer:
    """Users of the location."""
    return 200, {"users": list(request.location.reference.users.values())}


BUSINESSES = "businesses.readonly"
ROUTES = (
    Route("GET", "/locations/{locationId}", "locations.readonly", "path", get_location),
    Route("GET", "/locations/{locationId}/customFields", "locations/customFields.readonly", "path", list_custom_fields),
    Route("GET", "/locations/{locationId}/tags", "locations/tags.readonly", "path", list_tags),
    Route("GET", "/businesses/", BUSINESSES, "query", list_businesses),
    Route("GET", "/businesses/{businessId}", BUSINESSES, "business", get_business),
    Route("GET", "/users/", "users.readonly", "query", list_users, gone_in_v3=True),
)
