"""YAML read defensively: size and depth bounded, cycles and duplicate keys refused, nothing executed."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path
from typing import Any

import yaml

from aftermix.errors import ConfigError, ask_meant_path

MAX_BYTES = 1 << 20
MAX_NODES = 100_000
MAX_DEPTH = 64
MAX_DIGITS = 100
TAG = "tag:yaml.org,2002:"
PLAIN = frozenset(TAG + kind for kind in ("null", "bool", "int", "float", "str", "seq", "map"))
"""Types that JSON knows too. Sets, dates and bytes are nothing that a field takes."""


class _Loader(yaml.SafeLoader):
    """The safe loader with YAML 1.2 scalars: `1e9` and `2e-5` are floats; `1:30` and `2001-01-01` are texts."""

    yaml_constructors = {  # noqa: RUF012 - a class variable of the loader that it is made from
        tag: construct for tag, construct in yaml.SafeLoader.yaml_constructors.items() if tag is None or tag in PLAIN
    }
    yaml_implicit_resolvers = {  # noqa: RUF012
        first: [rule for rule in rules if rule[0] not in (TAG + "int", TAG + "float", TAG + "timestamp")]
        for first, rules in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }

    def __init__(self, text: str, where: str) -> None:
        super().__init__(text)
        self.where, self.nodes, self.depth = where, 0, 0

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        """The next node; too many or too deep ones are refused while they are read, before they cost time."""
        self.nodes, self.depth = self.nodes + 1, self.depth + 1
        if self.depth > MAX_DEPTH + 1:
            raise ConfigError(self._here(), f"nested deeper than {MAX_DEPTH}", "Flatten the file.")
        if self.nodes > MAX_NODES:
            raise ConfigError(self._here(), f"more than {MAX_NODES} values", "Shorten the file.")
        node = super().compose_node(parent, index)
        self.depth -= 1
        return node

    def _here(self) -> str:
        line = self.peek_event().start_mark.line + 1  # type: ignore[no-untyped-call]
        return f"{self.where}, line {line}"

    def construct_number(self, node: yaml.ScalarNode) -> int | float:
        """An integer or a float; time and text of a long one would grow with the square of its length."""
        if len(node.value) > MAX_DIGITS:
            problem = f"a number of {len(node.value)} characters"
            raise yaml.constructor.ConstructorError(None, None, problem, node.start_mark)
        number: int | float = (
            self.construct_yaml_int(node) if node.tag == TAG + "int" else self.construct_yaml_float(node)
        )
        return number


for kind, expression in {
    "int": r"[-+]?(0|[1-9][\d_]*|0[0-7_]+|0b[01_]+|0x[\da-fA-F_]+)",
    "float": r"[-+]?(\d[\d_]*\.[\d_]*|\.\d[\d_]*|\d[\d_]*(\.\d*)?[eE][-+]?\d+|\.(inf|Inf|INF))|\.(nan|NaN|NAN)",
}.items():
    _Loader.add_implicit_resolver(TAG + kind, re.compile(rf"^({expression})$", re.ASCII), list("-+.0123456789"))
    _Loader.add_constructor(TAG + kind, _Loader.construct_number)


def read_yaml(path: Path) -> dict[str, Any]:
    """The mapping in the YAML file at `path`.

    Raises :class:`ConfigError` for a missing, oversized, cyclic, explosively aliased or malformed file, for duplicate
    keys, and for anything but a mapping at the top.
    """
    try:
        with path.open("rb") as file:
            content = file.read(MAX_BYTES + 1)  # the file may be a pipe, whose size is not known
            if len(content) > MAX_BYTES:
                found = f"expected at most {MAX_BYTES} bytes, found {max(len(content), path.stat().st_size)}"
                raise ConfigError(str(path), found, "Shorten the file.")
        text = content.decode()
    except (OSError, ValueError) as error:
        remedy = ask_meant_path("Name a readable UTF-8 YAML file.", path)
        raise ConfigError(str(path), f"cannot be read ({error})", remedy) from error
    return parse_yaml(text, where=str(path))


def parse_yaml(text: str, *, where: str) -> dict[str, Any]:
    """The mapping in `text`; `where` names the source in errors."""
    try:
        value = _construct_value(text, where)
    except (yaml.YAMLError, RecursionError, ValueError, LookupError, ArithmeticError, AttributeError) as error:
        # The last four: what the constructors of PyYAML raise for a scalar that is not of the type its tag names.
        detail = " ".join(str(error).split())
        raise ConfigError(where, f"is not valid YAML ({detail})", "Correct the syntax at the place named.") from error
    if not isinstance(value, dict):
        found = "nothing" if value is None else type(value).__name__
        raise ConfigError(where, f"expected a mapping at the top, found {found}", "Begin with `base:` and `vectors:`.")
    return value


def _construct_value(text: str, where: str) -> Any:
    loader = _Loader(text, where)
    try:
        node = loader.get_single_node()
        if node is None:
            return None
        _refuse_unreasonable(node, where)
        return loader.construct_document(node)
    finally:
        loader.dispose()


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
            expanded[id(node)] = 1 + sum(visit(child, depth + 1) for child in _list_children(node, where))
            open_nodes.remove(id(node))

        if expanded[id(node)] > MAX_NODES:
            raise ConfigError(
                f"{where}, line {line}", f"aliases expand to more than {MAX_NODES} values", "Write the values out."
            )
        return expanded[id(node)]

    visit(root, 0)


def _list_children(node: yaml.Node, where: str) -> list[yaml.Node]:
    if isinstance(node, yaml.SequenceNode):
        return list(node.value)
    if not isinstance(node, yaml.MappingNode):
        return []
    keys = Counter(key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode) and key.value != "<<")
    doubled = sorted(key for key, count in keys.items() if count > 1)
    if doubled:
        line = node.start_mark.line + 1
        raise ConfigError(f"{where}, line {line}", f"key '{doubled[0]}' appears twice", "Keep one of them.")
    return [child for pair in node.value for child in pair]
