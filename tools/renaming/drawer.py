"""Draws the sketch of a file.

Syntax comes from libcst, whose places are right inside f-strings too; scopes are worked out here, after the rules of
the language: the first iterable of a comprehension lies outside it, a walrus binds outside it, class scopes are not
seen from the functions in them.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

import libcst as cst
from libcst.metadata import CodeRange, MetadataWrapper, PositionProvider

from tools.renaming.sketch import Attribute, Imported, Keyword, Name, Scope, Sketch, Text


def draw_sketch(source: str, module: str, package: str) -> Sketch:
    """Parse a file; its module and package are needed for relative imports."""
    wrapper = MetadataWrapper(cst.parse_module(source), unsafe_skip_copy=True)
    drawer = _Drawer(source, module, package, wrapper.resolve(PositionProvider))
    wrapper.module.visit(drawer)
    return drawer.sketch


def join_dotted(node: cst.BaseExpression | None) -> str:
    """The dotted path of an expression, empty where it is anything else."""
    if isinstance(node, cst.Name):
        return node.value
    if isinstance(node, cst.Attribute):
        left = join_dotted(node.value)
        return f"{left}.{node.attr.value}" if left else ""
    return ""


class _Drawer(cst.CSTVisitor):
    def __init__(self, source: str, module: str, package: str, places: object) -> None:
        super().__init__()
        self.sketch = Sketch()
        self.module, self.package, self.places = module, package, places
        self.lines = re.findall(r"[^\n]*\n|[^\n]+", source)
        self.starts = [0]
        for line in self.lines:
            self.starts.append(self.starts[-1] + len(line))
        self.scope = self._open_scope("module", None, "")
        self.roles: list[str] = [""]
        self.calls: list[tuple[str, str, tuple[int, int]]] = [("", "", (0, 0))]
        self.decorated: list[int | None] = [None]
        self.docstrings: set[int] = set()

    # Places

    def _place(self, node: cst.CSTNode) -> tuple[int, int, CodeRange]:
        span: CodeRange = self.places[node]  # type: ignore[index]
        return self.starts[span.start.line - 1] + span.start.column, span.start.line, span

    def _checker_end(self, node: cst.CSTNode) -> tuple[int, int]:
        """End of a node as mypy's parser counts columns: short by the extra bytes of what is not ASCII."""
        span: CodeRange = self.places[node]  # type: ignore[index]
        line = self.lines[span.end.line - 1] if span.end.line <= len(self.lines) else ""
        before = line[: span.end.column]
        return span.end.line, 2 * len(before) - len(before.encode())

    # Scopes

    def _open_scope(self, kind: str, parent: int | None, path: str, line: int = 0) -> int:
        self.sketch.scopes.append(Scope(kind, parent, path, line))
        return len(self.sketch.scopes) - 1

    def _bind(self, text: str, number: int) -> None:
        scope = self.sketch.scopes[number]
        if text in scope.declared_global:
            self.sketch.scopes[0].bound.add(text)
        elif text not in scope.declared_nonlocal:
            scope.bound.add(text)

    def _record(self, node: cst.Name, scope: int, binds: bool) -> None:
        start, line, _ = self._place(node)
        self.sketch.names.append(Name(node.value, start, scope, line, binds))
        if binds:
            self._bind(node.value, scope)

    def _bind_target(self, node: cst.CSTNode, scope: int | None = None) -> None:
        scope = self.scope if scope is None else scope
        if isinstance(node, cst.Name):
            self._record(node, scope, True)
        elif isinstance(node, cst.Tuple | cst.List):
            for element in node.elements:
                self._bind_target(element.value, scope)
        elif isinstance(node, cst.StarredElement | cst.Element):
            self._bind_target(node.value, scope)
        else:
            node.visit(self)

    def _visit_all(self, nodes: Sequence[cst.CSTNode | None]) -> None:
        for node in nodes:
            if isinstance(node, cst.CSTNode):
                node.visit(self)

    # Identifiers

    def visit_Name(self, node: cst.Name) -> bool:
        self._record(node, self.scope, False)
        return False

    def visit_Attribute(self, node: cst.Attribute) -> bool:
        node.value.visit(self)
        start, line, _ = self._place(node.attr)
        end = self._checker_end(node.attr)
        self.sketch.attributes.append(Attribute(node.attr.value, start, self.scope, line, end, join_dotted(node.value)))
        return False

    def visit_Call(self, node: cst.Call) -> bool:
        node.func.visit(self)
        end = self._checker_end(node.func)
        function = join_dotted(node.func) or (node.func.attr.value if isinstance(node.func, cst.Attribute) else "")
        first = join_dotted(node.args[0].value) if node.args and node.args[0].keyword is None else ""

        for number, arg in enumerate(node.args):
            if arg.keyword is not None:
                start, line, _ = self._place(arg.keyword)
                self.sketch.keywords.append(
                    Keyword(arg.keyword.value, start, self.scope, line, end, function, self.decorated[-1])
                )
            position = arg.keyword.value if arg.keyword is not None else str(number)
            self.calls.append((f"{function}({position}", first, end))
            arg.value.visit(self)
            self.calls.pop()
        return False

    def visit_NamedExpr(self, node: cst.NamedExpr) -> bool:
        node.value.visit(self)
        target = self.scope
        while self.sketch.scopes[target].kind == "comprehension":
            target = self.sketch.scopes[target].parent or 0
        self._bind_target(node.target, target)
        return False

    def visit_AssignTarget(self, node: cst.AssignTarget) -> bool:
        self._bind_target(node.target)
        return False

    def visit_Assign(self, node: cst.Assign) -> bool:
        names = [join_dotted(target.target) for target in node.targets]
        self._visit_all(node.targets)
        self.roles.append("all" if "__all__" in names and self.scope == 0 else self.roles[-1])
        node.value.visit(self)
        self.roles.pop()
        return False

    def visit_AnnAssign(self, node: cst.AnnAssign) -> bool:
        self._bind_target(node.target)
        node.annotation.visit(self)
        self._visit_all([node.value])
        return False

    def visit_AugAssign(self, node: cst.AugAssign) -> bool:
        self._bind_target(node.target)
        node.value.visit(self)
        return False

    def visit_For(self, node: cst.For) -> bool:
        node.iter.visit(self)
        self._bind_target(node.target)
        self._visit_all([node.body, node.orelse])
        self._read_comments(node.leading_lines)
        return False

    def visit_AsName(self, node: cst.AsName) -> bool:
        self._bind_target(node.name)
        return False

    def visit_Global(self, node: cst.Global) -> bool:
        for item in node.names:
            self.sketch.scopes[self.scope].declared_global.add(item.name.value)
            self._record(item.name, self.scope, False)
        return False

    def visit_Nonlocal(self, node: cst.Nonlocal) -> bool:
        for item in node.names:
            self.sketch.scopes[self.scope].declared_nonlocal.add(item.name.value)
            self._record(item.name, self.scope, False)
        return False

    def visit_MatchAs(self, node: cst.MatchAs) -> bool:
        self._visit_all([node.pattern])
        if node.name is not None:
            self._bind_target(node.name)
        return False

    def visit_MatchStar(self, node: cst.MatchStar) -> bool:
        if node.name is not None:
            self._bind_target(node.name)
        return False

    def visit_MatchKeywordElement(self, node: cst.MatchKeywordElement) -> bool:
        start, line, _ = self._place(node.key)
        self.sketch.texts.append(Text(node.key.value, start, self.scope, line, "pattern"))
        node.pattern.visit(self)
        return False

    # Imports

    def visit_Import(self, node: cst.Import) -> bool:
        for alias in node.names:
            full = join_dotted(alias.name)
            if alias.asname is not None:
                bound: cst.CSTNode = alias.asname.name
                target = full
            else:
                bound = alias.name
                while isinstance(bound, cst.Attribute):
                    bound = bound.value
                target = full.partition(".")[0]
            if isinstance(bound, cst.Name):
                self._record(bound, self.scope, True)
                self.sketch.scopes[self.scope].imports[bound.value] = (target, "")
        return False

    def visit_ImportFrom(self, node: cst.ImportFrom) -> bool:
        if isinstance(node.names, cst.ImportStar):
            return False
        module = join_dotted(node.module)
        if node.relative:
            base = self.package.split(".")
            base = base[: len(base) - len(node.relative) + 1]
            module = ".".join([*base, module] if module else base)

        for alias in node.names:
            if not isinstance(alias.name, cst.Name):
                continue
            bound = alias.asname.name if alias.asname is not None else alias.name
            if alias.asname is not None:
                start, line, _ = self._place(alias.name)
                self.sketch.imports.append(Imported(alias.name.value, start, module, line))
            if isinstance(bound, cst.Name):
                self._record(bound, self.scope, True)
                self.sketch.scopes[self.scope].imports[bound.value] = (module, alias.name.value)
        return False

    # Definitions

    def visit_FunctionDef(self, node: cst.FunctionDef) -> bool:
        self._read_comments(node.leading_lines)
        self._read_comments(node.lines_after_decorators)
        path = self._extend_path(node.name.value)
        _, line, _ = self._place(node.name)
        outer = self.scope
        inner = self._open_scope("function", outer, path, line)

        self.decorated.append(inner)
        self._visit_all(node.decorators)
        self.decorated.pop()
        self._record(node.name, outer, True)
        self._enter_params(node.params, inner)
        self._visit_all([node.returns])
        decorators = [join_dotted(getattr(one.decorator, "func", one.decorator)) for one in node.decorators]
        self.sketch.scopes[inner].guarded = any(
            name.split(".")[0] == "click" or name.endswith((".command", ".group")) or name.isupper()
            for name in decorators
        )

        self._mark_docstring(node.body)
        self.scope = inner
        node.body.visit(self)
        self.scope = outer
        return False

    def visit_Lambda(self, node: cst.Lambda) -> bool:
        outer = self.scope
        inner = self._open_scope("lambda", outer, self.sketch.scopes[outer].path)
        self._enter_params(node.params, inner)
        self.scope = inner
        node.body.visit(self)
        self.scope = outer
        return False

    def _enter_params(self, params: cst.Parameters, inner: int) -> None:
        every = [*params.posonly_params, *params.params, *params.kwonly_params]
        every += [star for star in (params.star_arg, params.star_kwarg) if isinstance(star, cst.Param)]
        for param in every:
            self._visit_all([param.annotation, param.default])
            self._record(param.name, inner, True)
            self.sketch.scopes[inner].params.append(param.name.value)

    def visit_ClassDef(self, node: cst.ClassDef) -> bool:
        self._read_comments(node.leading_lines)
        self._read_comments(node.lines_after_decorators)
        self._visit_all([*node.decorators, *(arg.value for arg in (*node.bases, *node.keywords))])
        self._record(node.name, self.scope, True)
        outer = self.scope
        self.scope = self._open_scope("class", outer, self._extend_path(node.name.value), self._place(node.name)[1])
        self._mark_docstring(node.body)
        node.body.visit(self)
        self.scope = outer
        return False

    def _extend_path(self, name: str) -> str:
        path = self.sketch.scopes[self.scope].path
        return f"{path}.{name}" if path else name

    # Comprehensions

    def _visit_comprehension(self, node: cst.BaseComp | cst.DictComp) -> bool:
        outer = self.scope
        loop: cst.CompFor | None = node.for_in
        inner = self._open_scope("comprehension", outer, self.sketch.scopes[outer].path)
        node.for_in.iter.visit(self)
        self.scope = inner

        while loop is not None:
            self._bind_target(loop.target)
            self._visit_all(loop.ifs)
            loop = loop.inner_for_in
            if loop is not None:
                loop.iter.visit(self)
        self._visit_all([node.key, node.value] if isinstance(node, cst.DictComp) else [node.elt])  # type: ignore[attr-defined]
        self.scope = outer
        return False

    def visit_ListComp(self, node: cst.ListComp) -> bool:
        return self._visit_comprehension(node)

    def visit_SetComp(self, node: cst.SetComp) -> bool:
        return self._visit_comprehension(node)

    def visit_GeneratorExp(self, node: cst.GeneratorExp) -> bool:
        return self._visit_comprehension(node)

    def visit_DictComp(self, node: cst.DictComp) -> bool:
        return self._visit_comprehension(node)

    # Strings and comments

    def _mark_docstring(self, body: cst.CSTNode) -> None:
        statements = getattr(body, "body", ())
        first = statements[0] if statements else None
        if isinstance(first, cst.SimpleStatementLine):
            first = first.body[0]
        if isinstance(first, cst.Expr):
            self.docstrings.add(id(first.value))

    def visit_Module(self, node: cst.Module) -> bool:
        self._mark_docstring(node)
        return True

    def visit_Annotation(self, _node: cst.Annotation) -> bool:
        self.roles.append("annotation")
        return True

    def leave_Annotation(self, original_node: cst.Annotation) -> None:
        self.roles.pop()

    def visit_Subscript(self, node: cst.Subscript) -> bool:
        node.value.visit(self)
        literal = join_dotted(node.value).rpartition(".")[2] == "Literal"
        self.roles.append("" if literal else self.roles[-1])
        self._visit_all(node.slice)
        self.roles.pop()
        return False

    def visit_SimpleString(self, node: cst.SimpleString) -> bool:
        start, line, _ = self._place(node)
        call, first, end = self.calls[-1]
        role = "docstring" if id(node) in self.docstrings else self.roles[-1]
        self.sketch.texts.append(Text(node.value, start, self.scope, line, role, call, first, end, self.decorated[-1]))
        return False

    def visit_Comment(self, node: cst.Comment) -> bool:
        start, line, _ = self._place(node)
        self.sketch.texts.append(Text(node.value, start, self.scope, line, "comment"))
        return False

    def _read_comments(self, lines: Sequence[cst.EmptyLine]) -> None:
        self._visit_all(lines)
