"""The tree of sources: modules by name, what each defines and imports, and where an imported name comes from."""

from __future__ import annotations

import ast
from dataclasses import dataclass, field
from pathlib import Path

FOLDERS = {"src": "src", "tests": "tests", "examples": "", "studies": "", "benchmarks": ""}


@dataclass
class Module:
    """One file: its name, its text, what it defines (paths) and what it imports at module level."""

    name: str
    file: Path
    source: str
    defined: dict[str, str] = field(default_factory=dict)
    imported: dict[str, tuple[str, str]] = field(default_factory=dict)

    @property
    def package(self) -> str:
        """The package that relative imports start from."""
        return self.name if self.file.name == "__init__.py" else self.name.rpartition(".")[0]


@dataclass
class Tree:
    """All modules of a checkout."""

    root: Path
    modules: dict[str, Module]

    def find_module(self, importer: str, name: str) -> str | None:
        """The project's module of this name as seen from another: by its full name, or beside the importer."""
        if name in self.modules:
            return name
        beside = f"{importer.rpartition('.')[0]}.{name}"
        if beside in self.modules and not self.modules[beside].file.is_relative_to(self.root / "src"):
            return beside
        if name.startswith("tests.") and name[6:] in self.modules:
            return name[6:]
        return None

    def resolve(self, module: str, name: str) -> tuple[str, str] | None:
        """Where a module-level name is defined, through every re-export; a module itself has an empty name."""
        seen: set[tuple[str, str]] = set()
        while (module, name) not in seen:
            seen.add((module, name))
            here = self.modules.get(module)
            if here is None:
                return None
            if name in here.defined:
                return module, name
            if name not in here.imported:
                inner = f"{module}.{name}"
                return (inner, "") if inner in self.modules else None
            step = self.follow(module, here.imported[name])
            if step is None or step[1] == "":
                return step
            module, name = step
        return None

    def follow(self, importer: str, target: tuple[str, str]) -> tuple[str, str] | None:
        """One step along an import: the module and name that it names."""
        source, name = target
        inner = self.find_module(importer, source)
        if inner is None:
            submodule = f"{source}.{name}" if name else source
            known = submodule in self.modules or any(one.startswith(f"{submodule}.") for one in self.modules)
            return (submodule, "") if known else None
        if not name:
            return inner, ""
        submodule = f"{inner}.{name}"
        here = self.modules[inner]
        if submodule in self.modules and name not in here.defined and name not in here.imported:
            return submodule, ""
        return inner, name


def name_module(file: Path, root: Path) -> str:
    """Dotted name under which a file is imported."""
    parts = list(file.relative_to(root).with_suffix("").parts)
    if FOLDERS.get(parts[0]):
        parts = parts[1:] or parts
    if parts[-1] == "__init__":
        parts = parts[:-1]
    return ".".join(parts)


def read_tree(root: Path, folders: tuple[str, ...] = tuple(FOLDERS)) -> Tree:
    """Read every Python file of these folders."""
    modules: dict[str, Module] = {}
    for folder in folders:
        for file in sorted((root / folder).rglob("*.py")):
            if "__pycache__" in file.parts:
                continue
            module = Module(name_module(file, root), file, file.read_text(encoding="utf-8"))
            _list_definitions(module)
            modules[module.name] = module
    return Tree(root, modules)


def _list_definitions(module: Module) -> None:
    tree = ast.parse(module.source)
    _list_body(module, tree.body, "", "name")


def _list_body(module: Module, body: list[ast.stmt], prefix: str, kind: str) -> None:
    for statement in body:
        if isinstance(statement, ast.FunctionDef | ast.AsyncFunctionDef):
            module.defined[prefix + statement.name] = kind
            _list_self_fields(module, statement, prefix)
            _list_body(module, statement.body, f"{prefix}{statement.name}.", "local")
        elif isinstance(statement, ast.ClassDef):
            module.defined[prefix + statement.name] = kind
            _list_body(module, statement.body, f"{prefix}{statement.name}.", "member")
        elif isinstance(statement, ast.Import | ast.ImportFrom) and not prefix:
            _list_import(module, statement)
        elif kind != "local":
            _list_targets(module, statement, prefix, kind)
        for name in ("body", "orelse", "finalbody"):
            inner = getattr(statement, name, None)
            if inner and not isinstance(statement, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
                _list_body(module, inner, prefix, kind)
        for handler in getattr(statement, "handlers", ()):
            _list_body(module, handler.body, prefix, kind)


def _list_targets(module: Module, statement: ast.stmt, prefix: str, kind: str) -> None:
    targets: list[ast.expr] = []
    if isinstance(statement, ast.Assign):
        targets = statement.targets
    elif isinstance(statement, ast.AnnAssign | ast.AugAssign | ast.For):
        targets = [statement.target]
    elif isinstance(statement, ast.With):
        targets = [item.optional_vars for item in statement.items if item.optional_vars is not None]
    for target in targets:
        for node in ast.walk(target):
            if isinstance(node, ast.Name):
                module.defined[prefix + node.id] = kind


def _list_self_fields(module: Module, function: ast.FunctionDef | ast.AsyncFunctionDef, prefix: str) -> None:
    if not prefix or not function.args.args:
        return
    first = function.args.args[0].arg
    for node in ast.walk(function):
        if not isinstance(node, ast.Attribute) or not isinstance(node.ctx, ast.Store):
            continue
        if isinstance(node.value, ast.Name) and node.value.id == first:
            module.defined.setdefault(prefix + node.attr, "member")


def _list_import(module: Module, statement: ast.Import | ast.ImportFrom) -> None:
    if isinstance(statement, ast.Import):
        for alias in statement.names:
            full = alias.name
            module.imported[alias.asname or full.partition(".")[0]] = (
                full if alias.asname else full.partition(".")[0],
                "",
            )
        return
    source = statement.module or ""
    if statement.level:
        base = module.package.split(".")
        base = base[: len(base) - statement.level + 1]
        source = ".".join([*base, source] if source else base)
    for alias in statement.names:
        module.imported[alias.asname or alias.name] = (source, alias.name)
