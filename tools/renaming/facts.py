"""Facts of the type checker: the class behind every attribute, the definition behind every keyword argument."""

from __future__ import annotations

import sys
import types
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mypy import build, nodes
from mypy import types as kinds
from mypy.modulefinder import BuildSource
from mypy.options import Options

UNFOLLOWED = {"node", "info", "type", "unanalyzed_type", "analyzed", "definition", "names", "imports", "alias_deps"}


@dataclass
class Facts:
    """What types tell of one file; an empty list of classes means that the type is known and none has the member."""

    members: dict[tuple[int, int, str], list[str] | None] = field(default_factory=dict)
    keywords: dict[tuple[int, int, str], list[tuple[str, ...]] | None] = field(default_factory=dict)
    copies: dict[tuple[int, int], list[str]] = field(default_factory=dict)
    classes: dict[str, list[tuple[int, list[str]]]] = field(default_factory=dict)


@dataclass
class World:
    """Facts of all files, and which classes of the whole tree have which members."""

    files: dict[str, Facts]
    definers: dict[str, set[str]]
    orders: dict[str, list[str]]
    errors: list[str]
    protocols: dict[str, set[str]] = field(default_factory=dict)


def gather_facts(sources: dict[str, Path], root: Path, members: set[str], keywords: set[str]) -> World:
    """Type-check all sources once and keep what matters for these member names and keyword names."""
    options = Options()
    options.export_types = options.preserve_asts = options.check_untyped_defs = True
    options.incremental = False
    options.cache_dir = "/dev/null"
    options.follow_imports = "skip"  # third parties are Any: nothing of theirs is renamed, and torch takes minutes
    options.ignore_missing_imports = True
    options.namespace_packages = options.explicit_package_bases = True
    options.mypy_path = [str(root / "src"), str(root / "tests"), str(root)]
    options.python_executable = sys.executable
    options.python_version = (3, 11)
    result = build.build([BuildSource(str(path), name, None) for name, path in sources.items()], options)

    trees = {name: result.files[name] for name in sources if name in result.files}
    lister = _Lister(result.types, members, keywords)
    for name, tree in trees.items():
        lister.index(name, tree)
    files = {name: lister.read(name, tree) for name, tree in trees.items()}
    return World(files, lister.definers, lister.orders, list(result.errors), lister.protocols)


_FIELDS: dict[type, list[str]] = {}


def walk(tree: nodes.Node) -> Iterator[nodes.Node]:
    """Every node of a tree; the checker's own visitors are compiled and cannot be extended."""
    seen: set[int] = set()
    stack: list[Any] = [tree]
    while stack:
        node = stack.pop()
        if isinstance(node, list | tuple):
            stack.extend(node)
            continue
        if not isinstance(node, nodes.Node) or id(node) in seen:
            continue
        seen.add(id(node))
        yield node
        kind = type(node)
        if kind not in _FIELDS:
            every = [name for name in dir(kind) if name not in UNFOLLOWED and not name.startswith("__")]
            _FIELDS[kind] = [n for n in every if isinstance(getattr(kind, n, None), types.GetSetDescriptorType)]
        for name in _FIELDS[kind]:
            try:
                stack.append(getattr(node, name))
            except AttributeError:
                continue


class _Lister:
    def __init__(self, known: dict[Any, Any], members: set[str], keywords: set[str]) -> None:
        self.known, self.members, self.keywords = known, members, keywords
        self.functions: dict[int, tuple[nodes.FuncDef, str]] = {}
        self.definers: dict[str, set[str]] = {}
        self.orders: dict[str, list[str]] = {}
        self.protocols: dict[str, set[str]] = {}
        self.local_classes: dict[str, dict[str, list[tuple[int, list[str]]]]] = {}

    def index(self, module: str, tree: nodes.MypyFile) -> None:
        """Note the functions and classes of one file."""
        classes = self.local_classes.setdefault(module, {})
        for node in walk(tree):
            if isinstance(node, nodes.FuncDef):
                self.functions[id(node)] = (node, module)
            elif isinstance(node, nodes.ClassDef) and isinstance(node.info, nodes.TypeInfo):
                order = [info.fullname for info in node.info.mro]
                self.orders[node.info.fullname] = order
                if node.info.is_protocol:
                    self.protocols[node.info.fullname] = set(node.info.protocol_members)
                classes.setdefault(node.name, []).append((node.line, order))
                for name in node.info.names:
                    self.definers.setdefault(name, set()).add(node.info.fullname)

    def read(self, module: str, tree: nodes.MypyFile) -> Facts:
        """Facts of one file."""
        facts = Facts(classes=self.local_classes.get(module, {}))
        for node in walk(tree):
            if isinstance(node, nodes.MemberExpr) and node.name in self.members and node.end_line is not None:
                key = (node.end_line, node.end_column or 0, node.name)
                of_module = isinstance(node.expr, nodes.RefExpr) and isinstance(node.expr.node, nodes.MypyFile)
                facts.members[key] = [] if of_module else self._find_definers(self._find_type(node.expr), node.name)
            elif isinstance(node, nodes.SuperExpr) and node.name in self.members and node.end_line is not None:
                if node.info is not None:
                    order = node.info.mro[1:]
                    key = (node.end_line, node.end_column or 0, node.name)
                    facts.members[key] = [info.fullname for info in order if node.name in info.names]
            elif isinstance(node, nodes.CallExpr) and node.callee.end_line is not None:
                self._read_call(node, facts)
        return facts

    def _read_call(self, node: nodes.CallExpr, facts: Facts) -> None:
        end = (node.callee.end_line or 0, node.callee.end_column or 0)
        if isinstance(node.callee, nodes.MemberExpr) and node.callee.name == "model_copy":
            facts.copies[end] = self._find_order(self._find_type(node.callee.expr))
        for name in node.arg_names:
            if name in self.keywords:
                facts.keywords[*end, name] = self._find_targets(node, node.callee, name)

    # Members

    def _find_type(self, expression: nodes.Expression) -> Any:
        """Type of an expression; of a name in code that was not checked, the type of its variable."""
        kind = self.known.get(expression)
        unknown = kind is None or isinstance(kinds.get_proper_type(kind), kinds.AnyType)
        if unknown and isinstance(expression, nodes.NameExpr) and isinstance(expression.node, nodes.Var):
            return expression.node.type or kind
        return kind

    def _find_infos(self, kind: Any) -> list[nodes.TypeInfo | None]:
        kind = kinds.get_proper_type(kind)
        if isinstance(kind, kinds.UnionType):
            return [info for item in kind.items for info in self._find_infos(item)]
        if isinstance(kind, kinds.Instance):
            return [kind.type]
        if isinstance(kind, kinds.TypeType):
            return self._find_infos(kind.item)
        if isinstance(kind, kinds.TupleType):
            return [kind.partial_fallback.type]
        if isinstance(kind, kinds.TypedDictType | kinds.LiteralType):
            return [kind.fallback.type]
        if isinstance(kind, kinds.TypeVarType):
            bounds = kind.values or [kind.upper_bound]
            return [info for bound in bounds for info in self._find_infos(bound)]
        if isinstance(kind, kinds.CallableType):
            return self._find_infos(kind.ret_type) if kind.is_type_obj() else [kind.fallback.type]
        if isinstance(kind, kinds.Overloaded):
            return self._find_infos(kind.items[0])
        if isinstance(kind, kinds.NoneType | kinds.UninhabitedType):
            return []
        return [None]

    def _find_definers(self, kind: Any, name: str) -> list[str] | None:
        infos = self._find_infos(kind) if kind is not None else [None]
        found: list[str] = []
        unknown = not infos
        for info in infos:
            if info is None:
                unknown = True
                continue
            here = [base.fullname for base in info.mro if name in base.names]
            unknown = unknown or (not here and info.fallback_to_any)
            found += here
        return found if found or not unknown else None

    def _find_order(self, kind: Any) -> list[str]:
        infos = self._find_infos(kind) if kind is not None else []
        return [base.fullname for info in infos if info is not None for base in info.mro]

    # Keyword arguments

    def _find_targets(self, call: nodes.CallExpr, callee: nodes.Expression, name: str) -> list[tuple[str, ...]] | None:
        full = callee.fullname if isinstance(callee, nodes.RefExpr) else ""
        if full == "functools.partial" and call.args:
            return self._find_targets(call, call.args[0], name)
        if full == "dataclasses.replace" and call.args:
            found = self._find_definers(self._find_type(call.args[0]), name)
            return None if found is None else [("field", *found)]
        if isinstance(callee, nodes.MemberExpr) and callee.name == "_replace":
            found = self._find_definers(self._find_type(callee.expr), name)
            return None if found is None else [("field", *found)]

        kind = self.known.get(callee)
        targets = self._find_of_type(kind, name) if kind is not None else None
        if targets is None and isinstance(callee, nodes.RefExpr):
            targets = self._find_of_node(callee.node, name)
        forwarded = targets is None or targets == [("open",)] or targets == [("foreign",)]
        if forwarded and call.args and call.args[0] is not callee and isinstance(call.args[0], nodes.RefExpr):
            inner = self._find_targets(call, call.args[0], name) if call.arg_names[0] is None else None
            if inner is not None and inner[0][0] == "param":
                return inner
        return targets

    def _find_of_type(self, kind: Any, name: str) -> list[tuple[str, ...]] | None:
        kind = kinds.get_proper_type(kind)
        if isinstance(kind, kinds.UnionType | kinds.Overloaded):
            found = [self._find_of_type(item, name) for item in kind.items]
            every = [target for targets in found if targets is not None for target in targets]
            return every or None
        if isinstance(kind, kinds.TypeType):
            return self._find_of_type(kind.item, name)
        if isinstance(kind, kinds.Instance):
            for base in kind.type.mro:
                if "__call__" in base.names:
                    return self._find_of_node(base.names["__call__"].node, name)
            return None
        if not isinstance(kind, kinds.CallableType):
            return None
        if kind.is_type_obj():
            return self._find_of_class(kind.type_object(), name)
        return self._find_of_node(kind.definition, name) if kind.definition is not None else None

    def _find_of_class(self, info: nodes.TypeInfo, name: str) -> list[tuple[str, ...]] | None:
        if info.typeddict_type is not None:
            return [("foreign",)]
        for base in info.mro:
            for method in ("__init__", "__new__"):
                symbol = base.names.get(method)
                if symbol is None or symbol.plugin_generated or base.fullname == "builtins.object":
                    continue
                if base.is_named_tuple or id(getattr(symbol.node, "func", symbol.node)) not in self.functions:
                    continue
                targets = self._find_of_node(symbol.node, name)
                if targets is not None and targets != [("open",)]:
                    return targets
        definers = [base.fullname for base in info.mro if name in base.names]
        return [("field", *definers)] if definers else [("foreign",)]

    def _find_of_node(self, node: Any, name: str) -> list[tuple[str, ...]] | None:
        if isinstance(node, nodes.TypeInfo):
            return self._find_of_class(node, name)
        if isinstance(node, nodes.OverloadedFuncDef):
            found = [self._find_of_node(item, name) or [] for item in [*node.items, node.impl] if item is not None]
            return [target for targets in found for target in targets] or None
        if isinstance(node, nodes.Decorator):
            node = node.func
        if not isinstance(node, nodes.FuncDef):
            return None
        known = self.functions.get(id(node))
        if known is None:
            return [("foreign",)]
        if name in [arg for arg in node.arg_names if arg is not None]:
            return [("param", known[1], node.name, str(node.line))]
        return [("open",)]
