"""Definitions as flat lists of tokens in which every name stands for what it resolves to.

The tokens of the old tree already say what the rows make of a name, so that two definitions are the same code if
their lists agree token by token. Docstrings, comments and the annotations of functions are left out; the annotations
of fields stay, since records are validated by them.
"""

from __future__ import annotations

import ast
from collections.abc import Sequence
from dataclasses import dataclass

from tools.renaming.binding import COMPREHENSIONS, Binder, Function, list_arguments, list_targets
from tools.renaming.speller import Speller, Token
from tools.renaming.tree import Module

STRING_CALLS = {"getattr", "setattr", "hasattr", "delattr", "attrgetter"}


@dataclass
class Unit:
    """One definition or module-level statement, the keys it may have in the new tree, and its tokens."""

    module: str
    path: str
    keys: list[tuple[str, str]]
    tokens: list[Token]
    text: str


def list_units(module: Module, speller: Speller) -> list[Unit]:
    """Every function, class and module-level statement of a module."""
    return _Splitter(module, speller).units


class _Splitter:
    def __init__(self, module: Module, speller: Speller) -> None:
        self.module, self.speller = module, speller
        tree = ast.parse(module.source)
        self.binder = Binder(tree, module.package)
        self.units: list[Unit] = []
        self.loose: list[ast.stmt] = []
        for statement in tree.body:
            self._split(statement, "", 0)
        if self.loose:
            self._add("<statements>", self.loose, 0)

    def _split(self, statement: ast.stmt, prefix: str, scope: int) -> None:
        if is_dropped(statement):
            return
        if isinstance(statement, ast.FunctionDef | ast.AsyncFunctionDef):
            self._add(prefix + statement.name, [statement], scope)
        elif isinstance(statement, ast.ClassDef):
            self._split_class(statement, prefix, scope)
        elif isinstance(statement, ast.Assign | ast.AnnAssign) and not prefix:
            target = statement.targets[0] if isinstance(statement, ast.Assign) else statement.target
            if isinstance(target, ast.Name):
                self._add(target.id, [statement], scope)
            else:
                self.loose.append(statement)
        else:
            self.loose.append(statement)

    def _split_class(self, node: ast.ClassDef, prefix: str, scope: int) -> None:
        inner = self.binder.number[id(node)]
        path = prefix + node.name
        parts = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
        frame = [one for one in node.body if not isinstance(one, parts) and not is_dropped(one)]

        emitter = _Emitter(self.module, self.speller, self.binder)
        emitter.emit_all([*node.decorator_list, *node.bases, *node.keywords], scope)
        emitter.emit_all(frame, inner)
        emitter.tokens += [("method order", one.name) for one in node.body if isinstance(one, ast.ClassDef)]
        self._append(path, emitter.tokens, ast.unparse(_make_frame(node, frame)))
        for one in node.body:
            if isinstance(one, parts):
                self._split(one, f"{path}.", inner)

    def _add(self, path: str, statements: list[ast.stmt], scope: int) -> None:
        emitter = _Emitter(self.module, self.speller, self.binder)
        if path == "__all__":
            emitter.emit_exports(statements[0])
        else:
            emitter.emit_all(statements, scope)
        self._append(path, emitter.tokens, "\n".join(ast.unparse(one) for one in statements))

    def _append(self, path: str, tokens: list[Token], text: str) -> None:
        rows, name = self.speller.rows, self.module.name
        module = rows.find_module(name, path)
        keys = [(module, rows.rename_path(name, path))]
        owner, _, last = keys[0][1].rpartition(".")
        keys += [(module, f"{owner}.{row.new}") for row in rows.of("member") if owner and row.old == last]
        self.units.append(Unit(name, path, keys, tokens, text))


def _make_frame(node: ast.ClassDef, frame: list[ast.stmt]) -> ast.ClassDef:
    return ast.ClassDef(node.name, node.bases, node.keywords, frame or [ast.Pass()], node.decorator_list)


def is_dropped(node: ast.stmt) -> bool:
    """True for docstrings and for imports at module or class level, also those for types only."""
    if isinstance(node, ast.Expr):
        return isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)
    if isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING":
        return all(isinstance(one, ast.Import | ast.ImportFrom) for one in node.body) and not node.orelse
    return isinstance(node, ast.Import | ast.ImportFrom)


class _Emitter:
    def __init__(self, module: Module, speller: Speller, binder: Binder) -> None:
        self.module, self.speller, self.binder = module, speller, binder
        self.tokens: list[Token] = []
        self.numbers: dict[int, int] = {}

    def emit_all(self, nodes: Sequence[ast.AST], scope: int) -> None:
        """Tokens of nodes in a scope."""
        for node in nodes:
            self.emit(node, scope)

    def emit_exports(self, statement: ast.stmt) -> None:
        """Tokens of `__all__`: the names in any order, by what they export."""
        value = getattr(statement, "value", None)
        names = [one.value for one in getattr(value, "elts", ()) if isinstance(one, ast.Constant)]
        self.tokens += sorted(self._find_global(str(name)) for name in names)

    # Names

    def _relate(self, number: int) -> int:
        return self.numbers.setdefault(number, len(self.numbers))

    def _find_global(self, text: str) -> Token:
        resolved = self.speller.tree.resolve(self.module.name, text)
        if resolved is not None:
            return ("global", *self.speller.spell_global(*resolved))
        imports = self.binder.scopes[0].imports
        if text in imports:
            return ("global", *self.speller.qualify(self.module.name, imports[text]))
        return ("global", *self.speller.spell_global(self.module.name, text))

    def _emit_name(self, text: str, scope: int) -> None:
        number = self.binder.resolve(text, scope)
        if number is None:
            self.tokens.append(("builtin", text))
            return
        here = self.binder.scopes[number]
        if here.kind == "module":
            self.tokens.append(self._find_global(text))
        elif text in here.imports:
            target = self.speller.qualify(self.module.name, here.imports[text])
            self.tokens.append(("imported", self._relate(number), *target))
        elif here.kind == "class":
            self.tokens.append(("member", text))
        else:
            self.tokens.append(
                ("local", self._relate(number), self.speller.spell_local(self.module.name, here.path, text))
            )

    def _find_module(self, node: ast.expr, scope: int) -> tuple[str, int | None] | None:
        """The project's module that an expression names, in its own tree, and the scope of the import if local."""
        if isinstance(node, ast.Attribute):
            left = self._find_module(node.value, scope)
            if left is None:
                return None
            target = self.speller.tree.resolve(left[0], node.attr)
            name = f"{left[0]}.{node.attr}"
            if target is not None:
                return (target[0], left[1]) if not target[1] else None
            known = any(one.startswith(f"{name}.") for one in self.speller.tree.modules)
            return (name, left[1]) if known else None
        if not isinstance(node, ast.Name):
            return None
        number = self.binder.resolve(node.id, scope)
        if number is None or node.id not in self.binder.scopes[number].imports:
            return None
        step = self.speller.tree.follow(self.module.name, self.binder.scopes[number].imports[node.id])
        if step is not None and step[1]:
            step = self.speller.tree.resolve(*step)
        return (step[0], number or None) if step is not None and not step[1] else None

    # Nodes

    def emit(self, node: ast.AST | None, scope: int) -> None:
        """Tokens of one node."""
        if node is None:
            self.tokens.append(("none",))
        elif isinstance(node, ast.Name):
            self.tokens.append((type(node.ctx).__name__,))
            self._emit_name(node.id, scope)
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            self._emit_function(node, scope)
        elif isinstance(node, ast.ClassDef):
            self._emit_class(node, scope)
        elif isinstance(node, COMPREHENSIONS):
            self._emit_comprehension(node, scope)
        elif isinstance(node, ast.Import | ast.ImportFrom):
            self._emit_imports([node])
        elif isinstance(node, ast.Attribute):
            self._emit_attribute(node, scope)
        elif isinstance(node, ast.Constant):
            self._emit_constant(node)
        else:
            self._emit_other(node, scope)

    def _emit_imports(self, nodes: list[ast.Import | ast.ImportFrom]) -> None:
        """Imports of one block as a sorted set: how they are spread over statements does not matter."""
        targets = {
            self.speller.qualify(self.module.name, target)
            for node in nodes
            for _, target in list_targets(node, self.module.package)
        }
        self.tokens += [("import", *target) for target in sorted(targets)]

    def _emit_attribute(self, node: ast.Attribute, scope: int) -> None:
        module = self._find_module(node.value, scope)
        self.tokens.append(("attribute", type(node.ctx).__name__))
        if module is None:
            self.emit(node.value, scope)
            self.tokens.append(("attr", node.attr))
            return
        target = self.speller.tree.resolve(module[0], node.attr) or (module[0], node.attr)
        kind = "global" if module[1] is None else "imported"
        self.tokens.append((f"{kind} attribute", *self.speller.spell_global(*target)))

    def _emit_constant(self, node: ast.Constant) -> None:
        value = node.value
        if isinstance(value, str):
            self.tokens.append(("string", value, self.speller.spell_string(value)))
        else:
            self.tokens.append(("constant", type(value).__name__, repr(value)))

    def _emit_other(self, node: ast.AST, scope: int) -> None:
        self.tokens.append(("node", type(node).__name__))
        if isinstance(node, ast.Global | ast.Nonlocal):
            for name in node.names:
                self._emit_name(name, scope)
            return
        if isinstance(node, ast.AnnAssign):
            self._emit_assignment(node, scope)
            return
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in STRING_CALLS:
            self.tokens.append(("string call",))
        for name, value in ast.iter_fields(node):
            if name in {"ctx", "type_comment", "kind"}:
                continue
            self.tokens.append(("field", name))
            self._emit_value(node, name, value, scope)

    def _emit_value(self, node: ast.AST, name: str, value: object, scope: int) -> None:
        if isinstance(value, list):
            kept = [one for one in value if not (isinstance(one, ast.Expr) and is_dropped(one))]
            kept = [one for one in kept if not isinstance(one, ast.Pass)] if name == "body" else kept
            if name == "kwd_attrs":
                self.tokens += [("attr", one) for one in kept]
                return
            imports = [one for one in kept if isinstance(one, ast.Import | ast.ImportFrom)]
            self._emit_imports(imports)
            kept = [one for one in kept if one not in imports]
            self.tokens.append(("list", len(kept)))
            for one in kept:
                self._emit_value(node, "", one, scope)
        elif isinstance(value, ast.AST):
            self.emit(value, scope)
        elif isinstance(node, ast.keyword) and name == "arg":
            self.tokens.append(("keyword", value))
        elif name in {"name", "rest"} and isinstance(value, str):
            self._emit_name(value, scope)
        else:
            self.tokens.append(("value", value))

    def _emit_assignment(self, node: ast.AnnAssign, scope: int) -> None:
        self.emit(node.target, scope)
        if self.binder.scopes[scope].kind == "class":
            self._emit_annotation(node.annotation, scope)
        self.emit(node.value, scope)

    def _emit_annotation(self, node: ast.expr, scope: int) -> None:
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            node = ast.parse(node.value, mode="eval").body
        self.emit(node, scope)

    def _emit_function(self, node: Function | ast.Lambda, scope: int) -> None:
        inner = self.binder.number[id(node)]
        self.tokens.append(("function", type(node).__name__, self._relate(inner)))
        arguments = node.args
        if not isinstance(node, ast.Lambda):
            self.emit_all(list(node.decorator_list), scope)
            if self.binder.scopes[scope].kind in {"function", "lambda"}:
                self._emit_name(node.name, scope)
            if _is_command(node):
                self.tokens.append(("help", ast.get_docstring(node, clean=False)))
        for group in (arguments.posonlyargs, arguments.args, arguments.kwonlyargs):
            self.tokens.append(("arguments", len(group)))
        self.tokens.append(("stars", arguments.vararg is not None, arguments.kwarg is not None))

        for arg in list_arguments(arguments):
            self._emit_name(arg.arg, inner)
        for default in (*arguments.defaults, *arguments.kw_defaults):
            self.emit(default, scope)
        self._emit_value(node, "body", node.body, inner)

    def _emit_class(self, node: ast.ClassDef, scope: int) -> None:
        inner = self.binder.number[id(node)]
        self.tokens.append(("class", self._relate(inner)))
        self._emit_name(node.name, scope)
        self.emit_all([*node.decorator_list, *node.bases, *node.keywords], scope)
        for one in node.body:
            if isinstance(one, ast.FunctionDef | ast.AsyncFunctionDef):
                self.tokens.append(("member", one.name))
        self._emit_value(node, "body", node.body, inner)

    def _emit_comprehension(self, node: ast.expr, scope: int) -> None:
        inner = self.binder.number[id(node)]
        self.tokens.append(("comprehension", type(node).__name__, self._relate(inner)))
        generators: list[ast.comprehension] = node.generators  # type: ignore[attr-defined]
        for position, generator in enumerate(generators):
            self.emit(generator.iter, inner if position else scope)
            self.tokens.append(("for", generator.is_async, len(generator.ifs)))
            self.emit_all([generator.target, *generator.ifs], inner)
        results = [node.key, node.value] if isinstance(node, ast.DictComp) else [node.elt]  # type: ignore[attr-defined]
        self.emit_all(results, inner)


def _is_command(node: Function) -> bool:
    return any("command" in ast.unparse(one) or "group" in ast.unparse(one) for one in node.decorator_list)
