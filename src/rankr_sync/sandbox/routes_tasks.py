"""Endpoints of tasks: by contact, and the search over a whole location."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .errors import bad, invalid
from .reference import Record
from .routing import Answer, Request, Route
from .shapes import task_in_search
from .times import epoch_ms, iso

MOST = 1000


def list_tasks(request: Request) -> Answer:
    """All tasks of a contact, unpaged."""
    location, contact_id = request.location, request.contact_id()
    ids = location.tasks_of.get(contact_id, ())
    return 200, {"tasks": [request.sandbox.served("tasks", key, location.tasks[key]) for key in ids]}


def get_task(request: Request) -> Answer:
    """One task."""
    task = _task(request)
    return 200, {"task": request.sandbox.served("tasks", task["id"], task)}


def create_task(request: Request) -> Answer:
    """Add a task; title, dueDate and completed are required."""
    contact_id, body = request.contact_id(), request.fields()
    missing = [f"{key} should not be empty" for key in ("title", "dueDate", "completed") if body.get(key) in (None, "")]
    if missing:
        raise invalid(*missing)
    return 201, {"task": request.location.create_task(request.at_ms, contact_id, _fields(body))}


def update_task(request: Request) -> Answer:
    """Change the fields that are given."""
    task = _task(request)
    return 200, {"task": request.location.update_task(request.at_ms, task["id"], _fields(request.fields()))}


def complete_task(request: Request) -> Answer:
    """Set or take back `completed`."""
    task, completed = _task(request), request.fields().get("completed")
    if not isinstance(completed, bool):
        raise invalid("completed must be a boolean value")
    return 200, {"task": request.location.update_task(request.at_ms, task["id"], {"completed": completed})}


def delete_task(request: Request) -> Answer:
    """Remove a task."""
    request.location.delete_task(request.at_ms, _task(request)["id"])
    return 200, request.succeeded(legacy=True)


def _task(request: Request) -> Record:
    contact_id, task_id = request.contact_id(), request.params["taskId"]
    task = request.location.tasks.get(task_id)
    if task is None or task["contactId"] != contact_id:
        raise request.not_found("Task", task_id)
    return task


def _fields(body: Record) -> Record:
    fields: Record = {key: body[key] for key in ("title", "body", "completed", "assignedTo") if key in body}
    if "completed" in fields and not isinstance(fields["completed"], bool):
        raise invalid("completed must be a boolean value")
    if "dueDate" in body:
        due = epoch_ms(body["dueDate"])
        if due is None:
            raise invalid("dueDate must be a valid ISO 8601 date string")
        fields["dueDate"] = iso(due)
    return fields


# ---- the search

SORT_KEYS = ("title", "body", "dueDate", "completed", "assignedTo", "contactId")


def search_tasks(request: Request) -> Answer:
    """Tasks of the location, newest first unless asked otherwise; skip and limit run over a moving set."""
    location, options = request.location, request.sandbox.options
    body = request.fields() if request.body is not None else {}
    limit, skip = _whole(body, "limit", 25), _whole(body, "skip", 0)
    if limit > MOST:
        raise invalid(f"limit must not be greater than {MOST}")
    found = _matching(request, body)
    rich = options.tasks_search_rows == "rich"
    after = body.get("searchAfter")
    if after is not None and rich:
        found = _behind(found, after, request)
    page = found[skip : skip + limit]
    served = request.sandbox.served
    answer: Record = {
        "tasks": [served("tasks", task["id"], task_in_search(task, location, rich=rich)) for task in page]
    }
    if body.get("count"):
        answer["count"] = len(found)
    # 201 was seen with the rich rows (field 2026-09), 200 is what the spec says.
    return (201 if rich else 200), answer


def _matching(request: Request, body: Record) -> list[Record]:
    """The tasks that match, in order; kept until a task changes, for the next page of the same search."""
    location, cache = request.location, request.sandbox.task_searches
    by_clock = bool(body.get("overdue"))
    key = repr(
        sorted((name, value) for name, value in body.items() if name not in ("limit", "skip", "count", "searchAfter"))
    )
    stamp = (location.version, request.at_ms if by_clock else 0)
    kept = cache.get((location.id, key))
    if kept is not None and kept[0] == stamp:
        return kept[1]
    tests = _tests(request, body)
    found = [task for task in reversed(location.tasks.values()) if all(test(task) for test in tests)]
    sort_key = body.get("sortKey")
    if sort_key == "dateAdded" and _ascending(body):
        found.reverse()
    if sort_key in SORT_KEYS:
        found.sort(key=lambda task: str(task.get(sort_key, "")), reverse=not _ascending(body))
    if len(cache) >= 8:
        cache.pop(next(iter(cache)))
    cache[(location.id, key)] = (stamp, found)
    return found


def _ascending(body: Record) -> bool:
    return str(body.get("sortDirection", "desc")).lower() in ("asc", "1")


def _tests(request: Request, body: Record) -> list[Any]:
    location, tests = request.location, []
    completed = body.get("completed")
    if completed is None and request.sandbox.options.tasks_search_default == "open":
        completed = False
    if completed is not None:
        tests.append(lambda task: task["completed"] is bool(completed))
    contact_ids = _ids(body, "contactId")
    if contact_ids:
        tests.append(lambda task: task["contactId"] in contact_ids)
    users = _ids(body, "assignedTo")
    if users:
        tests.append(lambda task: task.get("assignedTo") in users)
    if body.get("unAssigned"):
        tests.append(lambda task: "assignedTo" not in task)
    if body.get("query"):
        needle = str(body["query"]).lower()
        tests.append(lambda task: needle in task["title"].lower() or needle in task.get("body", "").lower())
    if body.get("businessId"):
        tests.append(lambda task: location.contacts[task["contactId"]].get("businessId") == body["businessId"])
    if body.get("overdue"):
        now = iso(request.at_ms)
        tests.append(lambda task: not task["completed"] and task["dueDate"] < now)
    tests.extend(_due(body.get("dueDate")))
    return tests


def _ids(body: Record, key: str) -> set[str]:
    value = body.get(key) or []
    if not isinstance(value, list):
        raise invalid(f"{key} must be an array")
    return set(map(str, value))


def _due(bounds: Any) -> list[Any]:
    if not bounds:
        return []
    compare = {
        "gt": lambda due, at: due > at,
        "gte": lambda due, at: due >= at,
        "lt": lambda due, at: due < at,
        "lte": lambda due, at: due <= at,
    }
    if not isinstance(bounds, Mapping) or any(key not in compare for key in bounds):
        raise bad("Invalid dueDate")
    tests = []
    for key, text in bounds.items():
        at = epoch_ms(text)
        if at is None:
            raise bad("Invalid dueDate")
        tests.append(lambda task, test=compare[key], at=iso(at): test(task["dueDate"], at))
    return tests


def _behind(found: list[Record], after: Any, request: Request) -> list[Record]:
    """The rows behind a cursor, which names the last task of the page before."""
    if not isinstance(after, list) or len(after) != 2:
        raise bad("searchAfter must hold the sort value and the id of the last task")
    for position, task in enumerate(found):
        if task["id"] == after[1]:
            return found[position + 1 :]
    made = epoch_ms(after[0]) or 0  # the task is gone: go on with what was made before it
    return [task for task in found if request.location.task_times[task["id"]][0] < made]


def _whole(body: Record, key: str, default: int) -> int:
    value = body.get(key, default)
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise invalid(f"{key} must be a number conforming to the specified constraints")
    return value


READ, WRITE = "contacts.readonly", "contacts.write"
ONE = "/contacts/{contactId}/tasks/{taskId}"
ROUTES = (
    Route("GET", "/contacts/{contactId}/tasks", READ, "contact", list_tasks),
    Route("POST", "/contacts/{contactId}/tasks", WRITE, "contact", create_task),
    Route("GET", ONE, READ, "contact", get_task),
    Route("PUT", ONE, WRITE, "contact", update_task),
    Route("PUT", f"{ONE}/completed", WRITE, "contact", complete_task),
    Route("DELETE", ONE, WRITE, "contact", delete_task),
    Route("POST", "/locations/{locationId}/tasks/search", "locations/tasks.readonly", "path", search_tasks),
)
