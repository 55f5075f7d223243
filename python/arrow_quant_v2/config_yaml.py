"""YAML of configurations: what PyYAML's safe loader accepts, less everything that a configuration has no need of.

Scalars follow the core schema of YAML 1.2 (``yes`` is a text, ``1e-4`` a number). Aliases, keys given twice, tags of
other types and deep nesting are refused, with the line.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import yaml

from arrow_quant_v2.errors import ConfigurationError

MAX_BYTES = 1_000_000
MAX_DEPTH = 20

TAG = "tag:yaml.org,2002:"
SCALARS = {
    f"{TAG}null": re.compile(r"~|null|Null|NULL|", re.ASCII),
    f"{TAG}bool": re.compile(r"true|True|TRUE|false|False|FALSE"),
    f"{TAG}int": re.compile(r"[-+]?(0|[1-9][0-9]*)"),
    f"{TAG}float": re.compile(
        r"[-+]?(\.[0-9]+|(0|[1-9][0-9]*)(\.[0-9]*)?)([eE][-+]?[0-9]+)?|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)"
    ),
}


class ConfigLoader(yaml.SafeLoader):
    """Composes nodes only; values are made from them by :func:`node_value`."""

    depth = 0

    def event_mark(self) -> Any:
        """Return where the next event starts."""
        return self.peek_event().start_mark  # type: ignore[no-untyped-call]

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        """Compose a node as the safe loader does, without aliases and not too deep."""
        if self.check_event(yaml.AliasEvent):
            fail("an alias (*name) is not allowed", "Write the value out.", self.event_mark())
        self.depth += 1
        if self.depth > MAX_DEPTH:
            fail("nested too deeply", "Write it as key: value pairs.", self.event_mark())
        node = super().compose_node(parent, index)
        self.depth -= 1
        return node


class ConfigDumper(yaml.SafeDumper):
    """Quotes every text that the loader, or a YAML 1.1 reader, would take for something else."""


ConfigLoader.yaml_implicit_resolvers = {}  # none of YAML 1.1
for tag, pattern in SCALARS.items():
    whole = re.compile(f"(?:{pattern.pattern})\\Z")
    ConfigLoader.add_implicit_resolver(tag, whole, None)
    ConfigDumper.add_implicit_resolver(tag, whole, None)


def represent_text(dumper: ConfigDumper, text: str) -> yaml.ScalarNode:
    """Escape a text with control characters or line breaks: PyYAML's other styles do not give all of them back."""
    escaped = any(not char.isprintable() for char in text)
    return dumper.represent_scalar(f"{TAG}str", text, style='"' if escaped else None)


ConfigDumper.add_representer(str, represent_text)


@dataclass(frozen=True)
class YamlMapping:
    """Values of a file, and the line (from 1) of every key, nested ones dotted."""

    values: dict[str, Any]
    lines: dict[str, int]


class YamlFault(Exception):
    """A fault at a place of the text; parse_yaml adds the file."""

    def __init__(self, message: str, remedy: str, line: int | None) -> None:
        super().__init__(message)
        self.message = message
        self.remedy = remedy
        self.line = line


def fail(message: str, remedy: str, mark: Any) -> NoReturn:
    """Raise a YamlFault at a mark."""
    raise YamlFault(message, remedy, mark.line + 1)


def scalar_value(node: yaml.ScalarNode) -> Any:
    """Return the text, number, boolean or None of a scalar."""
    text = node.value
    if node.tag == f"{TAG}str":
        return text
    if node.tag not in SCALARS:
        fail(f"the tag {node.tag} is not allowed", "Use plain numbers, texts, lists and mappings.", node.start_mark)
    if SCALARS[node.tag].fullmatch(text) is None:
        fail(f"{text[:40]!r} is not of the type {node.tag}", "Remove the tag.", node.start_mark)
    if node.tag == f"{TAG}null":
        return None
    if node.tag == f"{TAG}bool":
        return text.lower() == "true"
    if node.tag == f"{TAG}int":
        return int(text) if len(text) < 100 else float("inf")
    return float(text.lower().replace(".inf", "inf").replace(".nan", "nan"))


def node_value(node: yaml.Node) -> Any:
    """Return the value of a node."""
    if isinstance(node, yaml.ScalarNode):
        return scalar_value(node)
    if isinstance(node, yaml.SequenceNode) and node.tag == f"{TAG}seq":
        return [node_value(element) for element in node.value]
    if isinstance(node, yaml.MappingNode) and node.tag == f"{TAG}map":
        return mapping_value(node)
    fail(f"the tag {node.tag} is not allowed", "Use plain lists and mappings.", node.start_mark)


def mapping_value(node: yaml.MappingNode) -> dict[str, Any]:
    """Return the value of a mapping whose keys are texts and given once."""
    values: dict[str, Any] = {}
    for key_node, value_node in node.value:
        key = node_value(key_node)
        if not isinstance(key, str):
            fail(f"the key {str(key)[:40]} is not a text", "Put it in quotation marks.", key_node.start_mark)
        if key in values:
            fail(f"the key {key!r} is given twice", "Remove one of the two.", key_node.start_mark)
        values[key] = node_value(value_node)
    return values


def key_lines(node: yaml.MappingNode, prefix: str = "") -> Iterator[tuple[str, int]]:
    """Yield (dotted key, line from 1) of a mapping and of the mappings in it."""
    for key_node, value_node in node.value:
        name = f"{prefix}{key_node.value}"
        yield name, key_node.start_mark.line + 1
        if isinstance(value_node, yaml.MappingNode):
            yield from key_lines(value_node, f"{name}.")


def located(file: str, line: int | None) -> str:
    """Return "file:line", or what there is of it."""
    if line is None:
        return file
    return f"{file}:{line}" if file else f"line {line}"


def parse_yaml(text: str, file: str = "") -> YamlMapping:
    """Parse a YAML mapping.

    Raises:
        ConfigurationError: The text is too long, not YAML, or not a mapping of plain values; names `file` and line.
    """
    try:
        return parse_document(text)
    except YamlFault as fault:
        raise ConfigurationError.compose(fault.message, file=located(file, fault.line), remedy=fault.remedy) from None
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        problem = getattr(error, "problem", None) or getattr(error, "reason", None) or "it cannot be read"
        message = f"this is not YAML: {problem}"
        where = located(file, mark.line + 1 if mark else None)
        raise ConfigurationError.compose(message, file=where, remedy="Write it as key: value pairs.") from None


def parse_document(text: str) -> YamlMapping:
    """Parse the only document of a text; YamlFault or yaml.YAMLError for what is not a mapping of plain values."""
    if len(text) > MAX_BYTES:
        raise YamlFault(f"longer than {MAX_BYTES} bytes", "A configuration is a few lines long.", None)
    loader = ConfigLoader(text)
    try:
        node = loader.get_single_node()
    finally:
        loader.dispose()
    if node is None:
        raise YamlFault("the file is empty", "Write one key: value pair at least.", None)
    if not isinstance(node, yaml.MappingNode):
        raise YamlFault("this is not a mapping", "Write it as key: value pairs.", node.start_mark.line + 1)
    return YamlMapping(mapping_value(node), dict(key_lines(node)))


def read_yaml_file(path: Path) -> YamlMapping:
    """Read and parse a file of at most MAX_BYTES.

    Raises:
        ConfigurationError: It cannot be read, is not UTF-8, or as parse_yaml does.
    """
    try:
        with path.open("rb") as stream:
            data = stream.read(MAX_BYTES + 1)
        text = data.decode("utf-8-sig")
    except OSError as error:
        message = f"the configuration cannot be read: {error.strerror}"
        raise ConfigurationError.compose(message, file=str(path), remedy="Give the path of a YAML file.") from error
    except UnicodeDecodeError as error:
        message = f"this is not UTF-8 text: byte {error.start} is 0x{data[error.start]:02x}"
        raise ConfigurationError.compose(message, file=str(path), remedy="Save the file as UTF-8.") from None
    return parse_yaml(text, str(path))


def dump_yaml(values: dict[str, Any]) -> str:
    """Return YAML that parse_yaml reads back to equal values."""
    return yaml.dump(values, Dumper=ConfigDumper, sort_keys=False, allow_unicode=True, width=120)
