"""Just enough of JSON Schema 2020-12 to hold ``nncf_configs/schema.json`` against configurations."""

import re
from typing import Any

TYPES: dict[str, type | tuple[type, ...]] = {
    "object": dict,
    "array": list,
    "string": str,
    "boolean": bool,
    "number": (int, float),
    "integer": int,
    "null": type(None),
}
NOTES = {"$schema", "$defs", "title", "description", "default"}


def is_valid(value: Any, schema: dict[str, Any], root: dict[str, Any]) -> bool:
    """Whether ``value`` satisfies ``schema``; a keyword that is not known here is an error of the test."""
    return all(_satisfies(value, keyword, schema, root) for keyword in schema if keyword not in NOTES)


def _satisfies(value: Any, keyword: str, schema: dict[str, Any], root: dict[str, Any]) -> bool:
    wanted = schema[keyword]
    number = isinstance(value, int | float) and not isinstance(value, bool)
    match keyword:
        case "$ref":
            return is_valid(value, root["$defs"][wanted.removeprefix("#/$defs/")], root)
        case "type":
            return any(_is_type(value, name) for name in ([wanted] if isinstance(wanted, str) else wanted))
        case "const":
            return bool(value == wanted)
        case "enum":
            return value in wanted
        case "minimum":
            return not number or value >= wanted
        case "maximum":
            return not number or value <= wanted
        case "exclusiveMinimum":
            return not number or value > wanted
        case "exclusiveMaximum":
            return not number or value < wanted
        case "pattern":
            return not isinstance(value, str) or re.search(wanted, value) is not None
        case "minLength":
            return not isinstance(value, str) or len(value) >= wanted
        case "minItems":
            return not isinstance(value, list) or len(value) >= wanted
        case "maxItems":
            return not isinstance(value, list) or len(value) <= wanted
        case "oneOf":
            return sum(is_valid(value, option, root) for option in wanted) == 1
        case "required":
            return not isinstance(value, dict) or all(key in value for key in wanted)
        case "items":
            return not isinstance(value, list) or all(is_valid(item, wanted, root) for item in value)
        case "properties":
            known = wanted.items() if isinstance(value, dict) else ()
            return all(is_valid(value[key], part, root) for key, part in known if key in value)
        case "additionalProperties":
            return not isinstance(value, dict) or set(value) <= set(schema["properties"])
    raise NotImplementedError(keyword)


def _is_type(value: Any, name: str) -> bool:
    if isinstance(value, bool):
        return name == "boolean"
    return isinstance(value, TYPES[name])
