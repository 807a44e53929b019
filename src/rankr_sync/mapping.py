"""Field mapping: from the payload of the API to the columns of the store, by rules.

The defaults of every column are such rules (each stream declares its own as `FIELDS`); the configuration
adds to them or replaces them. A rule whose target is a column fills that column, any other target lands,
typed, in `extra` and as a column of the view `<entity>_mapped`. Compiled once, run for every changed record.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal, Self
from zoneinfo import ZoneInfo

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, field_validator, model_validator

from rankr_sync import values
from rankr_sync.model import JsonObject, LocationFacts, Row

FieldType = Literal["text", "phone", "datetime", "date", "number", "boolean", "json"]
TARGET = re.compile(r"[a-z][a-z0-9_]{0,62}\Z")


_READERS: dict[FieldType, Callable[[Any], Any]] = {
    "text": values.joined_text,
    "phone": values.text,
    "datetime": values.moment,
    "date": values.day,
    "number": values.number,
    "boolean": values.boolean,
    "json": lambda value: value,
}
"""How a default is read, which is written in the configuration as text, number or list."""


def _as_tuple(value: Any) -> Any:
    return (value,) if isinstance(value, str) else value


Paths = Annotated[tuple[str, ...], BeforeValidator(_as_tuple)]


class FieldRule(BaseModel):
    """How one target is filled. Exactly one of `from`, `join`, `custom_field` and `constant`.

    Paths name keys of the payload, with dots for what lies deeper (`attributionSource.medium`). `from`
    takes the first that is not empty, `join` puts all that are not empty together. `default` is used when
    nothing was found, and when what was found cannot be read.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, populate_by_name=True)

    source: Paths = Field(default=(), alias="from")
    join: Paths = ()
    separator: str = " "
    custom_field: str | None = None
    constant: Any = None
    default: Any = None
    case: Literal["keep", "lower", "upper", "title"] = "keep"
    type: FieldType = "text"
    region: str | None = None

    @model_validator(mode="before")
    @classmethod
    def _shorthand(cls, value: Any) -> Any:
        return {"from": value} if isinstance(value, (str, list)) else value

    @field_validator("constant", "default", mode="before")
    @classmethod
    def _as_in_json(cls, value: Any) -> Any:
        return _jsonable(value)  # TOML has dates of its own

    @model_validator(mode="after")
    def _one_origin(self) -> Self:
        given = [bool(self.source), bool(self.join), self.custom_field is not None, self.constant is not None]
        if sum(given) != 1:
            raise ValueError("give exactly one of from, join, custom_field and constant")
        for name in ("constant", "default"):
            try:
                _READERS[self.type](getattr(self, name))
            except values.BadValue as error:
                raise ValueError(f"{name}: {error}") from None
        return self

    def describe(self) -> str:
        """Where the value comes from, in words for `mapping preview`."""
        if self.custom_field is not None:
            return f"custom field {self.custom_field!r}"
        if self.constant is not None:
            return "constant"
        return " + ".join(self.join) if self.join else " or ".join(self.source)


Rules = Mapping[str, FieldRule]


@dataclass(frozen=True, slots=True)
class MappedField:
    """One target of a mapping with what it got, for `mapping preview`."""

    target: str
    origin: str
    value: Any
    problem: str | None = None


Getter = Callable[[JsonObject], Any]


@dataclass(frozen=True, slots=True)
class _Compiled:
    target: str
    get: Getter
    convert: Callable[[Any, JsonObject], Any]
    default: Any
    is_column: bool
    json_type: FieldType


class FieldMapping:
    """The compiled rules of one entity at one location."""

    def __init__(self, defaults: Rules, overrides: Rules, columns: frozenset[str], facts: LocationFacts) -> None:
        self.rules: dict[str, FieldRule] = {**defaults, **overrides}
        for target in defaults.keys() & overrides.keys():
            if overrides[target].default is None and defaults[target].default is not None:
                # What a column needs where nothing is found, it needs with another rule too.
                self.rules[target] = overrides[target].model_copy(update={"default": defaults[target].default})
        self.defaults, self.overrides, self.facts = defaults, overrides, facts
        self._fields = tuple(self._compile(name, rule, name in columns) for name, rule in self.rules.items())

    def effective(self) -> JsonObject:
        """All that decides what a payload becomes: the rules, their custom fields by id, time zone and country."""
        rules = {}
        for target, rule in self.rules.items():
            rules[target] = rule.model_dump(mode="json")
            if rule.custom_field is not None:
                rules[target]["custom_field"] = self.custom_field_id(rule.custom_field)
        return {"rules": rules, "timezone": self.facts.timezone, "country": self.facts.country}

    def custom_field_id(self, wanted: str) -> str:
        """The id of a custom field that is named by its name, key or id; what is not known is taken for an id."""
        return self.facts.custom_fields.get(wanted.casefold(), wanted)

    def row(self, fields: JsonObject) -> tuple[Row, tuple[str, ...]]:
        """Columns (with `extra`) of one payload, and a sentence for each value that could not be read."""
        row: Row = {}
        extra: JsonObject = {}
        problems: list[str] = []
        for field in self._fields:
            try:
                value = field.convert(field.get(fields), fields)
            except values.BadValue as error:
                problems.append(f"{field.target}: {error}")
                value = None
            if value is None:
                value = field.default
            if field.is_column:
                row[field.target] = value
            else:
                extra[field.target] = _jsonable(value)
        row["extra"] = extra
        return row, tuple(problems)

    def preview(self, fields: JsonObject) -> list[MappedField]:
        """Each target with its origin, value and problem."""
        found = []
        for field in self._fields:
            problem = None
            try:
                value = field.convert(field.get(fields), fields)
            except values.BadValue as error:
                problem, value = str(error), None
            if value is None:
                value = field.default
            found.append(MappedField(field.target, self.rules[field.target].describe(), value, problem))
        return found

    def _compile(self, target: str, rule: FieldRule, is_column: bool) -> _Compiled:
        default = _READERS[rule.type](rule.default)
        if rule.type == "datetime":
            default = values.moment(rule.default, ZoneInfo(self.facts.timezone))
        return _Compiled(target, self._getter(rule), self._converter(rule), default, is_column, rule.type)

    def _getter(self, rule: FieldRule) -> Getter:
        if rule.constant is not None:
            constant = rule.constant
            return lambda fields: constant
        if rule.custom_field is not None:
            return _custom_field(self.custom_field_id(rule.custom_field))
        paths = tuple(_path(path) for path in rule.join or rule.source)
        if rule.join:
            separator = rule.separator

            def join(fields: JsonObject) -> str | None:
                parts = [values.text(found) for get in paths if not values.is_empty(found := get(fields))]
                return separator.join(part for part in parts if part) or None

            return join
        if len(paths) == 1:
            return paths[0]

        def first(fields: JsonObject) -> Any:
            return next((found for get in paths if not values.is_empty(found := get(fields))), None)

        return first

    def _converter(self, rule: FieldRule) -> Callable[[Any, JsonObject], Any]:
        match rule.type:
            case "text":
                change = values.CASES.get(rule.case)
                read = values.joined_text if rule.custom_field is not None else values.text
                if change is None:
                    return lambda value, fields: read(value)
                return lambda value, fields: None if (found := read(value)) is None else change(found)
            case "phone":
                region, home = rule.region, self.facts.country
                return lambda value, fields: values.phone(value, region or _country(fields) or home)
            case "datetime":
                zone = ZoneInfo(self.facts.timezone)
                return lambda value, fields: values.moment(value, zone)
            case "date":
                return lambda value, fields: values.day(value)
            case "number":
                return lambda value, fields: values.number(value)
            case "boolean":
                return lambda value, fields: values.boolean(value)
            case "json":
                return lambda value, fields: value


def check_target(name: str, columns: frozenset[str], reserved: frozenset[str]) -> None:
    """Refuse a target that cannot be a column of the view. Raises ValueError with the reason."""
    if name in columns:
        return
    if name in reserved:
        raise ValueError(f"{name!r} is filled by rankr-sync itself and cannot be mapped")
    if not TARGET.match(name):
        raise ValueError(f"{name!r} is not a usable column name: lower-case letters, digits and _ only")


def _path(path: str) -> Getter:
    if "." not in path:
        return lambda fields: fields.get(path)
    keys = path.split(".")

    def dig(fields: JsonObject) -> Any:
        found: Any = fields
        for key in keys:
            if not isinstance(found, dict):
                return None
            found = found.get(key)
        return found

    return dig


def _custom_field(field_id: str) -> Getter:
    def find(fields: JsonObject) -> Any:
        entries = fields.get("customFields")
        for entry in entries if isinstance(entries, list) else ():
            if isinstance(entry, dict) and entry.get("id") == field_id:
                return entry.get("value")
        return None

    return find


def _country(fields: JsonObject) -> str | None:
    country = fields.get("country")
    return country if isinstance(country, str) and len(country) == 2 else None


def _jsonable(value: Any) -> Any:
    return value.isoformat() if hasattr(value, "isoformat") else value
