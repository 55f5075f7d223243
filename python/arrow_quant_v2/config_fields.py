"""The core's table of configuration keys, and the check of values against it."""

from __future__ import annotations

import functools
import json
import math
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, cast

from arrow_quant_v2._native import core
from arrow_quant_v2.errors import ConfigurationError

MAX_DEPTH = 20


@dataclass(frozen=True)
class ConfigField:
    """One row of the table.

    Attributes:
        name: Key, dotted where nested.
        type: "bool", "int", "float", "string", "string?", "float?", "list[string]", "map[string,int]" or
            "string|list[float]".
        group: Heading under which it is documented.
        doc: What it does.
        expectation: What a value must be.
        env: Environment variables that set it, the present name first.
        has_effect: False for keys that are only accepted for older files.
        pattern: True where texts are regular expressions.
        words: Allowed texts; empty for any.
        numbers: Allowed integers; empty for a range.
        minimum, maximum: The range, None where it is open.
        above_minimum: True when the minimum itself is not allowed.
        defaults: Value by profile: edge, local, cloud, base.
    """

    name: str
    type: str
    group: str
    doc: str
    expectation: str
    env: tuple[str, ...]
    has_effect: bool
    pattern: bool
    words: tuple[str, ...]
    numbers: tuple[int, ...]
    minimum: float | None
    maximum: float | None
    above_minimum: bool
    defaults: Mapping[str, Any]


@functools.cache
def config_fields() -> Mapping[str, ConfigField]:
    """Return the table by name, in the order of documents."""
    fields = {}
    for row in json.loads(core.config_fields()):
        values: dict[str, Any] = {key: tuple(value) if isinstance(value, list) else value for key, value in row.items()}
        fields[row["name"]] = ConfigField(**values)
    return MappingProxyType(fields)


def profile_values(name: str) -> dict[str, Any]:
    """Return every key of a profile, nested; ConfigurationError when there is none of that name."""
    return cast(dict[str, Any], json.loads(core.config_from_profile(str(name))))


def check_values(values: Mapping[str, Any], profile: str = "") -> dict[str, Any]:
    """Check keys and values and return all keys, nested.

    Args:
        values: Keys, dotted or nested, to values that JSON can hold.
        profile: Whose defaults fill the gaps; that of `values` itself when empty.

    Raises:
        ConfigurationError: Names the key, the value and what is allowed, or the nearest key.
    """
    plain = to_plain(values)
    for name, value in leaves(plain):
        if isinstance(value, float) and not math.isfinite(value):
            raise ConfigurationError.compose(f"{name} is {value}, not a finite number", remedy="Give a finite number.")
    try:
        text = json.dumps(plain)
    except (TypeError, ValueError) as error:
        message = f"the configuration holds something else than numbers, texts, lists and mappings: {error}"
        raise ConfigurationError.compose(message, remedy="Use plain Python values.") from None
    return cast(dict[str, Any], json.loads(core.validate_config(text, profile)))


def to_plain(value: Any, depth: int = 0) -> Any:
    """Return a value as JSON has it: dicts, lists, texts, numbers; numpy scalars and paths are converted.

    Raises:
        ConfigurationError: A key is not a text, or the value is nested too deeply (or holds itself).
    """
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if depth > MAX_DEPTH:
        raise ConfigurationError.compose(
            "the configuration is nested too deeply", remedy="Write it as key: value pairs."
        )
    if isinstance(value, Mapping):
        for key in value:
            if not isinstance(key, str):
                raise ConfigurationError.compose(f"the key {key!r} is not a text", remedy="Put it in quotation marks.")
        return {key: to_plain(element, depth + 1) for key, element in value.items()}
    if isinstance(value, list | tuple):
        return [to_plain(element, depth + 1) for element in value]
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if getattr(value, "ndim", None) == 0:
        return value.item()
    return value


def leaves(value: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    """Yield (dotted name, value) of everything in a plain value that is neither a dict nor a list."""
    if isinstance(value, dict):
        for key, element in value.items():
            yield from leaves(element, f"{name}.{key}" if name else key)
    elif isinstance(value, list):
        for index, element in enumerate(value):
            yield from leaves(element, f"{name}[{index}]")
    else:
        yield name, value


@functools.cache
def section_names() -> frozenset[str]:
    """Return the names that other names continue: "thermodynamic", "thermodynamic.validation", ..."""
    parts = (name.split(".") for name in config_fields())
    return frozenset(".".join(names[:end]) for names in parts for end in range(1, len(names)))


def flatten(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return nested sections as dotted names; mappings that are values (layer_bit_widths) stay as they are.

    Raises:
        ConfigurationError: A key is given both nested and dotted.
    """
    flat: dict[str, Any] = {}
    for key, value in values.items():
        name = f"{prefix}{key}"
        is_section = name in section_names() and isinstance(value, Mapping)
        part = flatten(value, f"{name}.") if is_section else {name: value}
        for twice in flat.keys() & part.keys():
            raise ConfigurationError.compose(f"the key '{twice}' is given twice", remedy="Remove one of the two.")
        flat |= part
    return flat
