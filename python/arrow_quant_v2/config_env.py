"""Configuration from ARROW_QUANT_* environment variables: one for every key, typed."""

from __future__ import annotations

import json
import math
import os
import re
from collections.abc import Callable, Mapping
from typing import Any

from arrow_quant_v2.config_fields import ConfigField, config_fields
from arrow_quant_v2.errors import ConfigurationError

TRUE = frozenset({"true", "1", "yes", "on"})
FALSE = frozenset({"false", "0", "no", "off"})


def parse_bool(text: str) -> bool:
    """Parse a boolean; ValueError for anything but the words above, in any case."""
    if text.lower() in TRUE:
        return True
    if text.lower() in FALSE:
        return False
    raise ValueError(text)


def parse_int(text: str) -> int:
    """Parse decimal digits with an optional sign."""
    if re.fullmatch(r"[-+]?[0-9]{1,19}", text) is None:
        raise ValueError(text)
    return int(text)


def parse_float(text: str) -> float:
    """Parse a finite decimal number, without underscores."""
    if re.fullmatch(r"[-+]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][-+]?[0-9]+)?", text) is None:
        raise ValueError(text)
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(text)
    return value


def parse_optional_float(text: str) -> float | None:
    """Parse a number, or "null"."""
    return None if text == "null" else parse_float(text)


def parse_optional_text(text: str) -> str | None:
    """Return the text, or None for "null"."""
    return None if text == "null" else text


def parse_words_or_list(text: str) -> Any:
    """Return a word, or a JSON list."""
    return json.loads(text) if text.startswith("[") else text


PARSERS: dict[str, Callable[[str], Any]] = {
    "bool": parse_bool,
    "int": parse_int,
    "float": parse_float,
    "string": str,
    "string?": parse_optional_text,
    "float?": parse_optional_float,
    "list[string]": json.loads,
    "map[string,int]": json.loads,
    "string|list[float]": parse_words_or_list,
}


def variable_of(field: ConfigField, environ: Mapping[str, str]) -> str | None:
    """Return the field's variable that is set and not empty, the present name before the older one."""
    return next((name for name in field.env if environ.get(name, "").strip()), None)


def parse_variable(field: ConfigField, name: str, text: str) -> Any:
    """Return the variable's value; ConfigurationError naming variable and value when it is not of the field's type."""
    try:
        return PARSERS[field.type](text.strip())
    except (ValueError, RecursionError):
        shown = text if len(text) <= 80 else text[:80] + "..."
        raise ConfigurationError.compose(
            f"{field.name} is {shown!r}; it must be {field.expectation}",
            file=f"environment variable {name}",
            remedy="Correct the variable or unset it; lists and mappings are written as JSON.",
        ) from None


def environment_values(environ: Mapping[str, str] | None = None) -> tuple[dict[str, Any], dict[str, str]]:
    """Return what ARROW_QUANT_* variables set.

    Empty variables count as unset; variables that belong to no key are left alone.

    Args:
        environ: The variables; those of the process when None.

    Returns:
        Values by dotted key, and by dotted key where each comes from, for messages.

    Raises:
        ConfigurationError: A value is not of its key's type. Ranges are not checked here.
    """
    variables = os.environ if environ is None else environ
    values: dict[str, Any] = {}
    origins: dict[str, str] = {}
    for field in config_fields().values():
        name = variable_of(field, variables)
        if name is not None:
            values[field.name] = parse_variable(field, name, variables[name])
            origins[field.name] = f"environment variable {name}"
    return values, origins
