"""The lower-case copies of a contact's names and e-mail, which some endpoints show instead of the originals."""

from __future__ import annotations

from .reference import Record

_LOWER: dict[str, str] = {}


def lowered(text: str) -> str:
    """`text.lower()`, the same object for the same name: 20,000 contacts share a few hundred names."""
    result = _LOWER.get(text)
    if result is None:
        result = text.lower()
        if len(_LOWER) < 10_000:
            _LOWER[text] = result
    return result


def derive(record: Record) -> None:
    """Bring the lower-case copies of a contact's names and e-mail in line with the originals."""
    first, last, email = record.get("firstName"), record.get("lastName"), record.get("email")
    for key, value in (("firstNameLowerCase", first), ("lastNameLowerCase", last)):
        if value:
            record[key] = lowered(value)
        else:
            record.pop(key, None)
    if email:
        record["emailLowerCase"] = email if email.islower() else email.lower()
    else:
        record.pop("emailLowerCase", None)
    if first or last:
        record["fullNameLowerCase"] = lowered(f"{first} {last}" if first and last else str(first or last))
    else:
        record.pop("fullNameLowerCase", None)
