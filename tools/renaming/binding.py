"""Scopes of a syntax tree of the standard library, keyed by the node that opens them."""

from __future__ import annotations

import ast
from collections.abc import Sequence

from tools.renaming.sketch import Scope

Function = ast.FunctionDef | ast.AsyncFunctionDef
COMPREHENSIONS = (ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp)


class Binder:
    """Names bound in every scope of one module."""

    def __init__(self, tree: ast.Module, package: str) -> None:
        self.scopes = [Scope("module", None, "")]
        self.number: dict[int, int] = {id(tree): 0}
        self.package = package
        self._bind_all(tree.body, 0)

    def resolve(self, text: str, number: int) -> int | None:
        """Number of the scope that decides a name; None for a builtin."""
        here: int | None = number
        while here is not None:
            scope = self.scopes[here]
            if text in scope.declared_global:
                return 0
            if (
                text in scope.bound
                and text not in scope.declared_nonlocal
                and (scope.kind != "class" or here == number)
            ):
                return here
            here = scope.parent
        return None

    def _open(self, node: ast.AST, kind: str, parent: int, name: str = "") -> int:
        path = ".".join(part for part in (self.scopes[parent].path, name) if part)
        self.scopes.append(Scope(kind, parent, path))
        self.number[id(node)] = len(self.scopes) - 1
        return len(self.scopes) - 1

    def _bind_name(self, text: str, number: int) -> None:
        scope = self.scopes[number]
        if text in scope.declared_global:
            self.scopes[0].bound.add(text)
        elif text not in scope.declared_nonlocal:
            scope.bound.add(text)

    def _bind_all(self, nodes: Sequence[ast.AST | None], number: int) -> None:
        for node in nodes:
            if node is not None:
                self._bind(node, number)

    def _bind(self, node: ast.AST, number: int) -> None:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            self._bind_function(node, number)
        elif isinstance(node, ast.ClassDef):
            self._bind_all([*node.decorator_list, *node.bases, *node.keywords], number)
            self._bind_name(node.name, number)
            self._bind_all(node.body, self._open(node, "class", number, node.name))
        elif isinstance(node, COMPREHENSIONS):
            self._bind_comprehension(node, number)
        elif isinstance(node, ast.NamedExpr):
            outer = number
            while self.scopes[outer].kind == "comprehension":
                outer = self.scopes[outer].parent or 0
            self._bind(node.target, outer)
            self._bind(node.value, number)
        elif isinstance(node, ast.Import | ast.ImportFrom):
            for bound, target in list_targets(node, self.package):
                self._bind_name(bound, number)
                self.scopes[number].imports[bound] = target
        else:
            self._bind_plain(node, number)

    def _bind_plain(self, node: ast.AST, number: int) -> None:
        if isinstance(node, ast.Global):
            self.scopes[number].declared_global.update(node.names)
        elif isinstance(node, ast.Nonlocal):
            self.scopes[number].declared_nonlocal.update(node.names)
        elif isinstance(node, ast.Name):
            if not isinstance(node.ctx, ast.Load):
                self._bind_name(node.id, number)
            return
        elif isinstance(node, ast.ExceptHandler | ast.MatchAs | ast.MatchStar) and node.name is not None:
            self._bind_name(node.name, number)
        elif isinstance(node, ast.MatchMapping) and node.rest is not None:
            self._bind_name(node.rest, number)
        self._bind_all(list(ast.iter_child_nodes(node)), number)

    def _bind_function(self, node: Function | ast.Lambda, number: int) -> None:
        named = not isinstance(node, ast.Lambda)
        if not isinstance(node, ast.Lambda):
            self._bind_all(node.decorator_list, number)
            self._bind_name(node.name, number)
        self._bind_all([*node.args.defaults, *node.args.kw_defaults], number)
        inner = self._open(node, "function" if named else "lambda", number, getattr(node, "name", ""))
        for arg in list_arguments(node.args):
            self._bind_name(arg.arg, inner)
            self.scopes[inner].params.append(arg.arg)
        self._bind_all(node.body if isinstance(node.body, list) else [node.body], inner)

    def _bind_comprehension(self, node: ast.expr, number: int) -> None:
        inner = self._open(node, "comprehension", number)
        generators: list[ast.comprehension] = node.generators  # type: ignore[attr-defined]
        for position, generator in enumerate(generators):
            self._bind(generator.iter, inner if position else number)
            self._bind_all([generator.target, *generator.ifs], inner)
        results = [node.key, node.value] if isinstance(node, ast.DictComp) else [node.elt]  # type: ignore[attr-defined]
        self._bind_all(results, inner)


def list_arguments(arguments: ast.arguments) -> list[ast.arg]:
    """All parameters, in order."""
    every = [*arguments.posonlyargs, *arguments.args, arguments.vararg, *arguments.kwonlyargs, arguments.kwarg]
    return [one for one in every if one is not None]


def list_targets(node: ast.Import | ast.ImportFrom, package: str) -> list[tuple[str, tuple[str, str]]]:
    """Every name that an import binds, with the module and the name in it."""
    if isinstance(node, ast.Import):
        plain = [(alias.asname, alias.name, alias.name.partition(".")[0]) for alias in node.names]
        return [(short, (full, "")) if short else (top, (top, "")) for short, full, top in plain]
    source = node.module or ""
    if node.level:
        base = package.split(".")
        base = base[: len(base) - node.level + 1]
        source = ".".join([*base, source] if source else base)
    return [(alias.asname or alias.name, (source, alias.name)) for alias in node.names]
