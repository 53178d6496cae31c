"""The edits that rows ask for, worked out from sketches of the files and facts of the types."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field

from tools.renaming.facts import Facts, World
from tools.renaming.rows import Row, Rows
from tools.renaming.sketch import Attribute, Keyword, Sketch, Text
from tools.renaming.tree import Module, Tree

# Attributes that builtins and other libraries have too: with an unknown type they are never renamed on trust.
COMMON = set(dir(str)) | set(dir(dict)) | set(dir(list)) | set(dir(set)) | {"shape", "dtype", "device", "data", "name"}
COMMON |= {"path", "value", "group", "args", "keywords", "func", "open", "close", "read", "write", "size", "step"}
COMMON |= {"run", "state", "params", "config", "parent", "weight", "grad", "result", "submit", "load", "save", "to"}


@dataclass(frozen=True)
class Edit:
    """One identifier to replace."""

    start: int
    old: str
    new: str
    row: Row


@dataclass
class Plan:
    """Edits of every file, and what a reader has to look at."""

    edits: dict[str, dict[int, Edit]] = field(default_factory=lambda: defaultdict(dict))
    unresolved: list[str] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)
    done: list[str] = field(default_factory=list)
    used: set[Row] = field(default_factory=set)
    common: Counter[str] = field(default_factory=Counter)


@dataclass
class Wanted:
    """The rows in names of the present tree."""

    names: dict[tuple[str, str], Row] = field(default_factory=dict)
    members: dict[str, Row] = field(default_factory=dict)
    locals: dict[tuple[str, str, str], Row] = field(default_factory=dict)
    words: dict[str, Row] = field(default_factory=dict)

    def list_words(self) -> set[str]:
        """Every old name."""
        every = [*self.names.values(), *self.members.values(), *self.locals.values(), *self.words.values()]
        return {row.old for row in every}


def place_rows(rows: Rows, tree: Tree, plan: Plan) -> Wanted:
    """Find what each row renames in the present tree; what is not there is done already or an error."""
    wanted = Wanted(words={row.old: row for row in rows.of("word")})
    for row in rows.of("name", "member", "local", "param"):
        name = rows.find_module(row.module, row.path)
        module = tree.modules.get(name) or tree.modules.get(name.removeprefix("tests."))
        if module is None:
            plan.errors.append(f"{row}: no module {name} in this tree. Is there a `module` row for {row.module}?")
            continue
        owner = _find_owner(row, rows, module)
        if owner is None:
            plan.errors.append(f"{row}: {module.name} has no {row.owner}")
        elif row.kind in {"local", "param"}:
            wanted.locals[module.name, owner, row.old] = row
        else:
            _place_definition(row, owner, module, wanted, plan)
    return wanted


def _find_owner(row: Row, rows: Rows, module: Module) -> str | None:
    for owner in (row.owner, rows.rename_path(row.module, row.owner)):
        if not owner or owner in module.defined:
            return owner
    parts, renamed = row.owner.split("."), rows.rename_path(row.module, row.owner).split(".")
    candidates = [""]
    for old, new in zip(parts, renamed, strict=True):
        candidates = [f"{head}.{part}".lstrip(".") for head in candidates for part in {old, new}]
    return next((one for one in candidates if one in module.defined), None)


def _place_definition(row: Row, owner: str, module: Module, wanted: Wanted, plan: Plan) -> None:
    path = f"{owner}.{row.old}" if owner else row.old
    new = f"{owner}.{row.new}" if owner else row.new
    if path not in module.defined:
        if new in module.defined:
            plan.done.append(str(row))
        else:
            plan.errors.append(f"{row}: {module.name} defines neither {path} nor {new}")
    elif new in module.defined:
        plan.errors.append(f"{row}: {module.name} defines {new} already")
    elif row.kind == "name":
        wanted.names[module.name, row.old] = row
    else:
        wanted.members[f"{module.name}.{path}"] = row


class Planner:
    """Works through the sketches: local names and names first, then what needs types."""

    def __init__(self, tree: Tree, wanted: Wanted, sketches: dict[str, Sketch], plan: Plan) -> None:
        self.tree, self.wanted, self.sketches, self.plan = tree, wanted, sketches, plan
        self.params: dict[tuple[str, str], dict[int, tuple[str, Row]]] = defaultdict(dict)
        self.scopes: dict[tuple[str, int, str], Row] = {}
        self.member_words = {row.old for row in wanted.members.values()}
        self.name_words = {row.old for row in wanted.names.values()}
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
                row = self.scopes.get((module, number, name.text)) or self._find_name(module, sketch, number, name.text)
                if row is not None:
                    self.put(module, name.start, row)
            for imported in sketch.imports:
                target = self.tree.follow(module, (imported.module, imported.text))
                row = self._find_target(target, imported.text)
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

    def _find_target(self, target: tuple[str, str] | None, text: str) -> Row | None:
        if target is None or not target[1]:
            return None
        resolved = self.tree.resolve(*target)
        row = self.wanted.names.get(resolved) if resolved is not None else None
        return row if row is not None and row.old == text else None

    def _find_name(self, module: str, sketch: Sketch, number: int, text: str) -> Row | None:
        if text not in self.name_words:
            return None
        scope = sketch.scopes[number]
        if scope.kind == "module":
            resolved = self.tree.resolve(module, text)
            row = self.wanted.names.get(resolved) if resolved is not None else None
            return row if row is not None and row.old == text else None
        if text in scope.imports and scope.imports[text][1] == text:
            return self._find_target(self.tree.follow(module, scope.imports[text]), text)
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
        return self._find_target((target[0], attribute.text), attribute.text)

    # Members and keyword arguments

    def plan_members(self, world: World) -> None:
        """Edits that types decide."""
        self.world = world
        self._check_members()
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

    # Strings and comments

    def plan_texts(self) -> None:
        """Edits in strings that name code, and in backticked words."""
        for module, sketch in self.sketches.items():
            for text in sketch.texts:
                if text.role in {"docstring", "comment"}:
                    self._plan_prose(module, sketch, text)
                elif text.role == "pattern":
                    if text.text in self.member_words:
                        self.leave(module, text.line, f"{text.text}= in a class pattern")
                else:
                    self._plan_string(module, sketch, text)

    def _plan_prose(self, module: str, sketch: Sketch, text: Text) -> None:
        for match in re.finditer(r"`([A-Za-z_]\w*)((?:\.\w+)*)(?:\(\))?`", text.text):
            word = match[1]
            if word not in self.name_words:
                continue
            number = sketch.resolve(word, text.scope)
            if number is not None and sketch.scopes[number].kind != "class":
                row = self.scopes.get((module, number, word)) or self._find_name(module, sketch, number, word)
            else:
                row = self._find_unique_name(word)
                if row is None:
                    self.leave(module, text.line, f"`{word}` in prose may be any of several")
            if row is not None:
                self.put(module, text.start + match.start(1), row)

    def _find_unique_name(self, word: str) -> Row | None:
        rows = [
            self.wanted.names.get((name, word)) for name, module in self.tree.modules.items() if word in module.defined
        ]
        first = rows[0] if rows else None
        return first if first is not None and all(row is not None and row.new == first.new for row in rows) else None

    def _plan_string(self, module: str, sketch: Sketch, text: Text) -> None:
        match = re.fullmatch(r"[rRuU]?('''|\"\"\"|'|\")(.*)\1", text.text, re.DOTALL)
        if match is None or "\\" in match[2]:
            return
        value, start = match[2], text.start + match.start(2)
        if text.role == "annotation" or text.call.rpartition(".")[2] in {"cast(0", "TypeVar(bound", "NewType(1"}:
            self._plan_annotation(module, sketch, text, value, start)
        elif text.role == "all":
            row = self._find_name(module, sketch, 0, value)
            if row is not None:
                self.put(module, start, row)
        elif text.call.endswith("parametrize(0"):
            self._plan_parametrize(module, text, value, start)
        elif re.fullmatch(r"\w+(\.\w+)+(:\w+(\.\w+)*)?|\w+:\w+", value):
            self._plan_dotted(module, value, start)
        elif value.isidentifier():
            self._plan_setattr(module, sketch, text, value, start)

    def _plan_annotation(self, module: str, sketch: Sketch, text: Text, value: str, start: int) -> None:
        for match in re.finditer(r"(?<![\w.])([A-Za-z_]\w*)((?:\.\w+)*)", value):
            number = sketch.resolve(match[1], text.scope)
            row = self._find_name(module, sketch, number, match[1]) if number is not None else None
            if row is not None:
                self.put(module, start + match.start(1), row)
            elif match[2]:
                root, _, last = match[0].rpartition(".")
                target = self.find_module_of(module, sketch, text.scope, root)
                row = self._find_target((target[0], last), last) if target is not None and not target[1] else None
                if row is not None:
                    self.put(module, start + match.end() - len(last), row)

    def _plan_parametrize(self, module: str, text: Text, value: str, start: int) -> None:
        if text.decorated is None:
            return
        for match in re.finditer(r"\w+", value):
            row = self.scopes.get((module, text.decorated, match[0]))
            if row is not None:
                self.put(module, start + match.start(), row)

    def _plan_dotted(self, module: str, value: str, start: int) -> None:
        parts = re.split(r"[.:]", value)
        for count in range(len(parts) - 1, 0, -1):
            name = ".".join(parts[:count])
            if name not in self.tree.modules:
                continue
            offset = start + len(name) + 1
            target = self.tree.resolve(name, parts[count])
            row = self._find_target(target, parts[count]) if target is not None else None
            if row is not None:
                self.put(module, offset, row)
            if target is not None and target[1] and len(parts) > count + 1:
                member = self.find_member([f"{target[0]}.{target[1]}"], parts[count + 1])
                if member is not None:
                    self.put(module, offset + len(parts[count]) + 1, member)
            return

    def _plan_setattr(self, module: str, sketch: Sketch, text: Text, value: str, start: int) -> None:
        if value not in self.name_words | self.member_words:
            return
        function = text.call.partition("(")[0].rpartition(".")[2]
        if function not in {"setattr", "delattr", "getattr", "hasattr", "object"} or not text.call.endswith("(1"):
            return
        target = self.find_module_of(module, sketch, text.scope, text.first) if text.first else None
        row = None
        if target is not None and not target[1]:
            row = self._find_target((target[0], value), value)
        elif target is not None:
            row = self.find_member([f"{target[0]}.{target[1]}"], value)
        if row is not None and function != "getattr":
            self.put(module, start, row)
        elif row is not None or target is None:
            self.leave(module, text.line, f"{function} with the string {value}")

    def plan_copies(self) -> None:
        """Keys of `model_copy(update={...})`, where the dictionary is written out."""
        for module, sketch in self.sketches.items():
            facts = self.world.files.get(module, Facts())
            for text in sketch.texts:
                if not text.call.endswith("model_copy(update"):
                    continue
                value = text.text.strip("'\"")
                row = self.find_member(facts.copies.get(text.callee, []), value)
                if row is not None:
                    self.put(module, text.start + 1, row, value)


def _list_fixtures(module: Module) -> list[str]:
    if "fixture" not in module.source:
        return []
    return re.findall(r"@(?:pytest\.)?fixture(?:\([^)]*\))?\s*\n\s*(?:async )?def (\w+)", module.source)


def find_conflicts(plan: Plan, before: dict[str, Sketch], after: Callable[[str], Sketch | None]) -> list[str]:
    """Places where a new name meets another: the scope that decides each identifier must stay the same."""
    errors: list[str] = []
    for module, edits in plan.edits.items():
        later = after(module)
        if later is None or not edits:
            continue
        errors += _compare_bindings(module, before[module], later, edits)
    return errors


def _compare_bindings(module: str, before: Sketch, after: Sketch, edits: dict[int, Edit]) -> list[str]:
    errors: list[str] = []
    forward: dict[tuple[int | None, str], tuple[str, Row | None]] = {}
    backward: dict[tuple[int | None, str], tuple[str, Row | None]] = {}
    if len(before.names) != len(after.names):
        return [f"{module}: another number of identifiers after the edits"]

    for old, new in zip(before.names, after.names, strict=True):
        row = edits[old.start].row if old.start in edits else None
        was, now = before.resolve(old.text, old.scope), after.resolve(new.text, new.scope)
        if was != now:
            errors.append(_describe(module, old.line, old.text, new.text, row or _guess_row(edits, new.text)))
            continue
        for table, key, value in ((forward, old.text, new.text), (backward, new.text, old.text)):
            first = table.setdefault((now, key), (value, row))
            if first[0] != value:
                errors.append(_describe(module, old.line, old.text, new.text, row or first[1]))
    return errors


def _guess_row(edits: dict[int, Edit], new: str) -> Row | None:
    return next((edit.row for edit in edits.values() if edit.new == new), None)


def _describe(module: str, line: int, old: str, new: str, row: Row | None) -> str:
    return (
        f"{row}: in {module}, line {line}, {old} -> {new} meets another name {new}, or only a part of them is renamed"
    )
