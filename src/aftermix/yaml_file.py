"""YAML read defensively: size and depth bounded, cycles and duplicate keys refused, nothing executed."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import yaml

from aftermix.errors import ConfigError

MAX_BYTES = 1 << 20
MAX_NODES = 100_000
MAX_DEPTH = 64


class _Loader(yaml.SafeLoader):
    """The safe loader with YAML 1.2 numbers: `1e9` and `2e-5` are floats, not strings."""


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"^[-+]?(\d[\d_]*)(\.\d*)?[eE][-+]?\d+$"),
    list("-+0123456789"),
)


def read_yaml(path: Path) -> dict[str, Any]:
    """The mapping in the YAML file at `path`.

    Raises :class:`ConfigError` for a missing, oversized, cyclic, explosively aliased or malformed file, for duplicate
    keys, and for anything but a mapping at the top.
    """
    try:
        size_bytes = path.stat().st_size
        if size_bytes > MAX_BYTES:
            raise ConfigError(str(path), f"expected at most {MAX_BYTES} bytes, found {size_bytes}", "Shorten the file.")
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(str(path), f"cannot be read ({error})", "Name a readable UTF-8 YAML file.") from error
    return parse_yaml(text, where=str(path))


def parse_yaml(text: str, *, where: str) -> dict[str, Any]:
    """The mapping in `text`; `where` names the source in errors."""
    loader = _Loader(text)
    try:
        node = loader.get_single_node()
        if node is not None:
            _refuse_unreasonable(node, where)
        value = loader.construct_document(node) if node is not None else None
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        detail = " ".join(str(error).split())
        raise ConfigError(where, f"is not valid YAML ({detail})", "Correct the syntax at the place named.") from error
    finally:
        loader.dispose()
    if not isinstance(value, dict):
        found = "nothing" if value is None else type(value).__name__
        raise ConfigError(where, f"expected a mapping at the top, found {found}", "Begin with `base:` and `vectors:`.")
    return value


def _refuse_unreasonable(root: yaml.Node, where: str) -> None:
    """Walk the node graph as if every alias were written out, and stop at what is unreasonable."""
    expanded: dict[int, int] = {}
    open_nodes: set[int] = set()

    def visit(node: yaml.Node, depth: int) -> int:
        line = node.start_mark.line + 1
        if id(node) in open_nodes:
            raise ConfigError(f"{where}, line {line}", "an alias contains itself", "Write the value out.")
        if depth > MAX_DEPTH:
            raise ConfigError(f"{where}, line {line}", f"nested deeper than {MAX_DEPTH}", "Flatten the file.")
        if id(node) not in expanded:
            open_nodes.add(id(node))
            expanded[id(node)] = 1 + sum(visit(child, depth + 1) for child in _children(node, where))
            open_nodes.remove(id(node))
        if expanded[id(node)] > MAX_NODES:
            raise ConfigError(
                f"{where}, line {line}", f"aliases expand to more than {MAX_NODES} values", "Write the values out."
            )
        return expanded[id(node)]

    visit(root, 0)


def _children(node: yaml.Node, where: str) -> list[yaml.Node]:
    if isinstance(node, yaml.SequenceNode):
        return list(node.value)
    if not isinstance(node, yaml.MappingNode):
        return []
    keys = [key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode) and key.value != "<<"]
    doubled = sorted({key for key in keys if keys.count(key) > 1})
    if doubled:
        line = node.start_mark.line + 1
        raise ConfigError(f"{where}, line {line}", f"key '{doubled[0]}' appears twice", "Keep one of them.")
    return [child for pair in node.value for child in pair]
