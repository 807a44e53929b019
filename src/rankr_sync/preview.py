"""What is doubtful about mapping rules, judged by records: for people who try a mapping before they apply it. Pure."""

import difflib
from collections.abc import Sequence
from typing import Any

from rankr_sync.mapping import FieldMapping, FieldRule
from rankr_sync.model import JsonObject


def doubts(mapping: FieldMapping, records: Sequence[JsonObject]) -> dict[str, str]:
    """Target to what is doubtful about its rule, whichever record it is given; rules of the configuration only.

    A custom field that nobody knows, a path that none of the records has, a column that loses its own source.
    A rule with a `default` has foreseen that its field may be missing.
    """
    found = {}
    for target, rule in mapping.overrides.items():
        words = _unknown(mapping, rule, records) or _missing(rule, records) or _shadows(mapping, target, rule)
        if words is not None:
            found[target] = words
    return found


def _unknown(mapping: FieldMapping, rule: FieldRule, records: Sequence[JsonObject]) -> str | None:
    wanted, known = rule.custom_field, mapping.facts.custom_fields
    if wanted is None or wanted.casefold() in known or any(wanted in _field_ids(record) for record in records):
        return None
    near = difflib.get_close_matches(wanted.casefold(), known, 1)
    return f"no custom field {wanted!r} is known" + (f"; did you mean {near[0]!r}?" if near else "")


def _field_ids(record: JsonObject) -> list[Any]:
    fields = record.get("customFields")
    return [field.get("id") for field in fields if isinstance(field, dict)] if isinstance(fields, list) else []


def _missing(rule: FieldRule, records: Sequence[JsonObject]) -> str | None:
    if rule.default is not None or not records:
        return None
    missing = [path for path in (*rule.source, *rule.join) if not any(_has(record, path) for record in records)]
    if not missing or (rule.source and len(missing) < len(rule.source)):
        return None
    return f"none of {len(records):,} records has {' or '.join(missing)}"


def _has(record: JsonObject, path: str) -> bool:
    found: Any = record
    for key in path.split("."):
        if not isinstance(found, dict) or key not in found:
            return False
        found = found[key]
    return True


def _shadows(mapping: FieldMapping, target: str, rule: FieldRule) -> str | None:
    own = mapping.defaults.get(target)
    if own is None or set(own.source) & {*rule.source, *rule.join}:
        return None
    return f"the column {target} loses its own source, {own.describe()}"
