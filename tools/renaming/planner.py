"""The edits that rows ask for in code, worked out from sketches of the files and facts of the types."""

from __future__ import annotations

import re
from collections import defaultdict

from tools.renaming.facts import Facts, World
from tools.renaming.plan import Edit, Plan, Wanted
from tools.renaming.rows import Row
from tools.renaming.sketch import Attribute, Keyword, Sketch
from tools.renaming.tree import Module, Tree

# Attributes that builtins and other libraries have too: with an unknown type they are never renamed on trust.
COMMON = set(dir(str)) | set(dir(dict)) | set(dir(list)) | set(dir(set)) | {"shape", "dtype", "device", "data", "name"}
COMMON |= {"path", "value", "group", "args", "keywords", "func", "open", "close", "read", "write", "size", "step"}
COMMON |= {"run", "state", "params", "config", "parent", "weight", "grad", "result", "submit", "load", "save", "to"}


class Planner:
    """Works through the sketches: local names and names first, then what needs types."""

    def __init__(self, tree: Tree, wanted: Wanted, sketches: dict[str, Sketch], plan: Plan) -> None:
        self.tree, self.wanted, self.sketches, self.plan = tree, wanted, sketches, plan
        self.params: dict[tuple[str, str], dict[int, tuple[str, Row]]] = defaultdict(dict)
        self.scopes: dict[tuple[str, int, str], Row] = {}
        self.member_words = {row.old for row in wanted.members.values()}
        self.name_words = {row.old for row in wanted.names.values()}
        self.world = World({}, {}, {}, [])
        self.fixtures = {name for module in tree.modules.values() for name in _list_fixtures(module)}

    def put(self, module: str, start: int, row: Row, old: str | None = None) -> None:
        """Add one edit; a second row for the same place must agree with the first."""
        old = old or row.old
        earlier = self.plan.edits[module].get(start)
        if earlier is not None and earlier.new != row.new:
            self.plan.errors.append(f"{row}: {earlier.row} renames the same place in {module} otherwise")
        self.plan.edits[module][start] = Edit(start, old, row.new, row)
        self.plan.used.add(row)

    def leave(self, module: str, line: int, what: str) -> None:
        """List a place that a reader has to look at."""
        file = self.tree.modules[module].file.relative_to(self.tree.root)
        self.plan.unresolved.append(f"{file}:{line}: {what}")

    # Names and local names

    def plan_names(self) -> None:
        """Edits that scopes alone decide."""
        for module, sketch in self.sketches.items():
            self._choose_scopes(module, sketch)
            for name in sketch.names:
                number = sketch.resolve(name.text, name.scope)
                if number is None:
                    continue
                row = self.scopes.get((module, number, name.text)) or self.find_name(module, sketch, number, name.text)
                if row is not None:
                    self.put(module, name.start, row)
            for imported in sketch.imports:
                target = self.tree.follow(module, (imported.module, imported.text))
                row = self.find_target(target, imported.text)
                if row is not None:
                    self.put(module, imported.start, row)
            for attribute in sketch.attributes:
                if attribute.text in self.name_words and attribute.root:
                    row = self._find_attribute(module, sketch, attribute)
                    if row is not None:
                        self.put(module, attribute.start, row)

    def _choose_scopes(self, module: str, sketch: Sketch) -> None:
        for number, scope in enumerate(sketch.scopes):
            if scope.kind not in {"function", "lambda", "comprehension"}:
                continue
            for text in sorted(scope.bound):
                row = self.wanted.locals.get((module, scope.path, text)) or self.wanted.words.get(text)
                if row is None or (row.kind == "word" and text in scope.imports):
                    continue
                if text in scope.params:
                    linked = text in self.fixtures and not module.startswith("aftermix")
                    if row.kind == "word" and (scope.guarded or linked):
                        self.leave(
                            module, scope.line, f"parameter {text} of {scope.path} is tied to a string or fixture"
                        )
                        continue
                    self.params[module, scope.path.rpartition(".")[2]].setdefault(scope.line, ("", row))
                elif row.kind == "param" and text not in scope.params and scope.kind == "function":
                    self.plan.errors.append(f"{row}: a local name of {scope.path}, not a parameter: use a local row")
                self.scopes[module, number, text] = row

    def find_target(self, target: tuple[str, str] | None, text: str) -> Row | None:
        if target is None or not target[1]:
            return None
        resolved = self.tree.resolve(*target)
        row = self.wanted.names.get(resolved) if resolved is not None else None
        return row if row is not None and row.old == text else None

    def find_name(self, module: str, sketch: Sketch, number: int, text: str) -> Row | None:
        if text not in self.name_words:
            return None
        scope = sketch.scopes[number]
        if scope.kind == "module":
            resolved = self.tree.resolve(module, text)
            row = self.wanted.names.get(resolved) if resolved is not None else None
            return row if row is not None and row.old == text else None
        if text in scope.imports and scope.imports[text][1] == text:
            return self.find_target(self.tree.follow(module, scope.imports[text]), text)
        return None

    def find_module_of(self, module: str, sketch: Sketch, scope: int, dotted: str) -> tuple[str, str] | None:
        """What a dotted path names: a module, or a definition in one."""
        head, *rest = dotted.split(".")
        number = sketch.resolve(head, scope)
        if number is None:
            return None
        here = sketch.scopes[number]
        target: tuple[str, str] | None
        if head in here.imports:
            target = self.tree.follow(module, here.imports[head])
        elif here.kind == "module":
            target = self.tree.resolve(module, head)
        else:
            return None
        for part in rest:
            if target is None:
                return None
            if not target[1]:
                inner = f"{target[0]}.{part}"
                target = self.tree.resolve(target[0], part) or ((inner, "") if self._is_package(inner) else None)
            else:
                target = target[0], f"{target[1]}.{part}"
        if target is not None and target[1] and "." not in target[1]:
            return self.tree.resolve(*target) or target
        return target

    def _is_package(self, name: str) -> bool:
        return name in self.tree.modules or any(one.startswith(f"{name}.") for one in self.tree.modules)

    def _find_attribute(self, module: str, sketch: Sketch, attribute: Attribute) -> Row | None:
        target = self.find_module_of(module, sketch, attribute.scope, attribute.root)
        if target is None or target[1]:
            return None
        return self.find_target((target[0], attribute.text), attribute.text)

    # Members and keyword arguments

    def plan_members(self, world: World) -> None:
        """Edits that types decide."""
        self.world = world
        self._check_members()
        self._list_implementers()
        for module, sketch in self.sketches.items():
            facts = world.files.get(module, Facts())
            self._plan_class_bodies(module, sketch, facts)
            for attribute in sketch.attributes:
                if attribute.text in self.member_words and attribute.start not in self.plan.edits[module]:
                    self._plan_attribute(module, sketch, attribute, facts)
            for keyword in sketch.keywords:
                self._plan_keyword(module, sketch, keyword, facts)

    def find_member(self, definers: list[str], text: str) -> Row | None:
        """The row for a member that these classes define, or whose bases do."""
        for definer in definers:
            for base in [definer, *self.world.orders.get(definer, [])]:
                row = self.wanted.members.get(f"{base}.{text}")
                if row is not None:
                    return row
        return None

    def _check_members(self) -> None:
        for full, row in self.wanted.members.items():
            owner = full.rpartition(".")[0]
            related = [one for one, order in self.world.orders.items() if owner in order]
            related += self.world.orders.get(owner, [])
            for one in related:
                taken = one in self.world.definers.get(row.new, ())
                leaving = self.find_member([one], row.new)
                if taken and leaving is None:
                    self.plan.errors.append(f"{row}: {one} has a member {row.new} already")
            for base in self.world.orders.get(owner, [])[1:]:
                other = self.wanted.members.get(f"{base}.{row.old}")
                if base in self.world.definers.get(row.old, ()) and (other is None or other.new != row.new):
                    self.plan.errors.append(f"{row}: overrides {base}.{row.old}, which needs the row")

    def _list_implementers(self) -> None:
        """Classes with all members of a protocol of which one is renamed: they may need a row of their own."""
        for full, row in self.wanted.members.items():
            protocol = full.rpartition(".")[0]
            for one, order in self.world.orders.items():
                members = self.world.protocols.get(protocol)
                if not members or protocol in order or self.find_member([one], row.old) is not None:
                    continue
                if all(any(base in self.world.definers.get(name, ()) for base in order) for name in members):
                    self.plan.unresolved.append(f"{one}.{row.old}: of a class that looks like {protocol} ({row})")

    def _plan_class_bodies(self, module: str, sketch: Sketch, facts: Facts) -> None:
        owners: dict[int, list[str]] = {}
        for name in sketch.names:
            if name.text not in self.member_words:
                continue
            number = sketch.resolve(name.text, name.scope)
            if number is None or sketch.scopes[number].kind != "class":
                continue
            scope = sketch.scopes[number]
            if number not in owners:
                near = facts.classes.get(scope.path.rpartition(".")[2], [])
                lines = [(abs(line - scope.line), order) for line, order in near]
                owners[number] = [f"{module}.{scope.path}", *(min(lines)[1] if lines else [])]
            row = self.find_member(owners[number], name.text)
            if row is not None:
                self.put(module, name.start, row)

    def _plan_attribute(self, module: str, sketch: Sketch, attribute: Attribute, facts: Facts) -> None:
        if attribute.root:
            target = self.find_module_of(module, sketch, attribute.scope, attribute.root)
            if target is not None and not target[1]:
                return
        definers = facts.members.get((*attribute.end, attribute.text))
        if definers is not None:
            rows = [self.find_member([one], attribute.text) for one in definers]
            row = next((one for one in rows if one is not None), None)
            if row is None:
                return
            project = [one for one in definers if one in self.world.orders]
            if any(self.find_member([one], attribute.text) is None for one in project):
                self.leave(
                    module, attribute.line, f".{attribute.text} belongs to renamed and other classes: {definers}"
                )
            self.put(module, attribute.start, row)
            return
        row = self._find_only_member(attribute.text)
        if row is not None:
            self.put(module, attribute.start, row)
        elif attribute.text in COMMON:
            self.plan.common[attribute.text] += 1
        else:
            self.leave(module, attribute.line, f".{attribute.text} of an object of unknown type")

    def _find_only_member(self, text: str) -> Row | None:
        definers = sorted(self.world.definers.get(text, ()))
        rows = {self.find_member([one], text) for one in definers}
        if text in COMMON or len(rows) != 1 or not definers:
            return None
        owners = [full.rpartition(".")[0] for full, row in self.wanted.members.items() if row in rows]
        related = all(any(owner in self.world.orders.get(one, [one]) for owner in owners) for one in definers)
        return rows.pop() if related and len(owners) == 1 else None

    def _plan_keyword(self, module: str, sketch: Sketch, keyword: Keyword, facts: Facts) -> None:
        if keyword.decorated is not None and keyword.function.rpartition(".")[2] in {"given", "example"}:
            row = self.scopes.get((module, keyword.decorated, keyword.text))
            if row is not None:
                self.put(module, keyword.start, row)
            return
        targets = facts.keywords.get((*keyword.callee, keyword.text))
        if targets is None:
            row = self._find_param_by_name(module, sketch, keyword)
            if row is not None:
                self.put(module, keyword.start, row)
            elif self._is_wanted_keyword(keyword.text):
                self.leave(module, keyword.line, f"{keyword.text}= in a call of unknown {keyword.function}")
            return
        rows = [self._find_keyword_row(target, keyword.text) for target in targets if target[0] != "foreign"]
        row = next((one for one in rows if one is not None), None)
        if row is not None:
            self.put(module, keyword.start, row)
            if any(one is None or one.new != row.new for one in rows):
                self.leave(module, keyword.line, f"{keyword.text}= goes to renamed and other parameters")
        elif ("open",) in targets and self._is_wanted_keyword(keyword.text):
            self.leave(module, keyword.line, f"{keyword.text}= is taken by ** of {keyword.function}")

    def _find_keyword_row(self, target: tuple[str, ...], text: str) -> Row | None:
        if target[0] == "field":
            return self.find_member(list(target[1:]), text)
        if target[0] == "param":
            return self.find_param(target[1], target[2], int(target[3]), text)
        return None

    def find_param(self, module: str, function: str, line: int, text: str) -> Row | None:
        """The row that renames this parameter of the function defined at this line."""
        sketch = self.sketches.get(module)
        if sketch is None:
            return None
        candidates = [
            (abs(scope.line - line), number)
            for number, scope in enumerate(sketch.scopes)
            if scope.kind == "function" and scope.path.rpartition(".")[2] == function and text in scope.params
        ]
        return self.scopes.get((module, min(candidates)[1], text)) if candidates else None

    def _find_param_by_name(self, module: str, sketch: Sketch, keyword: Keyword) -> Row | None:
        """The row for a function that the type checker could not import, such as a script's neighbour."""
        target = self.find_module_of(module, sketch, keyword.scope, keyword.function) if keyword.function else None
        if target is None or target[0] not in self.sketches:
            return None
        for number, scope in enumerate(self.sketches[target[0]].scopes):
            if scope.kind == "function" and scope.path == target[1] and keyword.text in scope.params:
                return self.scopes.get((target[0], number, keyword.text))
        return None

    def _is_wanted_keyword(self, text: str) -> bool:
        return text in self.keyword_words

    @property
    def keyword_words(self) -> set[str]:
        """Names that a keyword argument may have to follow."""
        params = {text for (module, number, text) in self.scopes if text in self.sketches[module].scopes[number].params}
        return params | self.member_words


def _list_fixtures(module: Module) -> list[str]:
    if "fixture" not in module.source:
        return []
    return re.findall(r"@(?:pytest\.)?fixture(?:\([^)]*\))?\s*\n\s*(?:async )?def (\w+)", module.source)
