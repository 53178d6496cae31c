"""The edits in strings that name code, and in backticked words of docstrings and comments."""

from __future__ import annotations

import re

from tools.renaming.facts import Facts
from tools.renaming.planner import Planner
from tools.renaming.rows import Row
from tools.renaming.sketch import Sketch, Text


class StringPlanner:
    """Works through the strings and comments once names and members are planned."""

    def __init__(self, code: Planner) -> None:
        self.code = code

    def plan_texts(self) -> None:
        """Edits in strings that name code, and in backticked words."""
        for module, sketch in self.code.sketches.items():
            for text in sketch.texts:
                if text.role in {"docstring", "comment"}:
                    self._plan_prose(module, sketch, text)
                elif text.role == "pattern":
                    if text.text in self.code.member_words:
                        self.code.leave(module, text.line, f"{text.text}= in a class pattern")
                else:
                    self._plan_string(module, sketch, text)

    def _plan_prose(self, module: str, sketch: Sketch, text: Text) -> None:
        for match in re.finditer(r"(:\w+:)?`~?([A-Za-z_]\w*)((?:\.\w+)*)(?:\(\))?`", text.text):
            start = text.start + match.start(2)
            if match[3] and match[2] == "aftermix":
                self._plan_dotted(module, match[2] + match[3], start)
                continue
            row = self._find_prose(module, sketch, text, match[2], in_class=match[1] in {":meth:", ":attr:"})
            if row is not None and match[3] and row.kind != "name":
                self.code.leave(module, text.line, f"`{match[2]}{match[3]}` in prose: a key of a file, perhaps")
                continue
            if row is not None:
                self.code.put(module, start, row)

            # A member after its class: `Class.member`.
            target = self.code.find_module_of(module, sketch, text.scope, match[2]) if match[3] else None
            if target is not None and target[1]:
                name = match[3].split(".")[1]
                member = self.code.find_member([f"{target[0]}.{target[1]}"], name)
                if member is not None:
                    self.code.put(module, text.start + match.start(3) + 1, member)

    def _find_prose(self, module: str, sketch: Sketch, text: Text, word: str, in_class: bool) -> Row | None:
        number = sketch.resolve(word, text.scope)
        if in_class and word in self.code.member_words:
            return self._find_own_member(module, sketch, text.scope, word)
        if number is not None and sketch.scopes[number].kind not in {"module", "class"}:
            row = self.code.scopes.get((module, number, word))
            if row is None or word in sketch.scopes[number].params:
                return row or self.code.find_name(module, sketch, number, word)
            self.code.leave(module, text.line, f"`{word}` in prose: the local name, or something else?")
            return None
        if word not in self.code.name_words:
            return None
        if number is not None and sketch.scopes[number].kind == "module":
            return self.code.find_name(module, sketch, number, word)
        row = self._find_unique_name(word)
        if row is None:
            self.code.leave(module, text.line, f"`{word}` in prose may be any of several")
        return row

    def _find_own_member(self, module: str, sketch: Sketch, scope: int | None, word: str) -> Row | None:
        while scope is not None:
            here = sketch.scopes[scope]
            if here.kind == "class":
                return self.code.find_member([f"{module}.{here.path}"], word)
            scope = here.parent
        return None

    def _find_unique_name(self, word: str) -> Row | None:
        rows = [
            self.code.wanted.names.get((name, word))
            for name, module in self.code.tree.modules.items()
            if word in module.defined
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
            row = self.code.find_name(module, sketch, 0, value)
            if row is not None:
                self.code.put(module, start, row)
        elif text.call.endswith("parametrize(0"):
            self._plan_parametrize(module, text, value, start)
        elif re.fullmatch(r"\w+(\.\w+)+(:\w+(\.\w+)*)?|\w+:\w+", value):
            self._plan_dotted(module, value, start)
        elif value.isidentifier():
            self._plan_setattr(module, sketch, text, value, start)

    def _plan_annotation(self, module: str, sketch: Sketch, text: Text, value: str, start: int) -> None:
        for match in re.finditer(r"(?<![\w.])([A-Za-z_]\w*)((?:\.\w+)*)", value):
            number = sketch.resolve(match[1], text.scope)
            row = self.code.find_name(module, sketch, number, match[1]) if number is not None else None
            if row is not None:
                self.code.put(module, start + match.start(1), row)
            elif match[2]:
                root, _, last = match[0].rpartition(".")
                target = self.code.find_module_of(module, sketch, text.scope, root)
                row = self.code.find_target((target[0], last), last) if target is not None and not target[1] else None
                if row is not None:
                    self.code.put(module, start + match.end() - len(last), row)

    def _plan_parametrize(self, module: str, text: Text, value: str, start: int) -> None:
        if text.decorated is None:
            return
        for match in re.finditer(r"\w+", value):
            row = self.code.scopes.get((module, text.decorated, match[0]))
            if row is not None:
                self.code.put(module, start + match.start(), row)

    def _plan_dotted(self, module: str, value: str, start: int) -> None:
        parts = re.split(r"[.:]", value)
        for count in range(len(parts) - 1, 0, -1):
            name = ".".join(parts[:count])
            if name not in self.code.tree.modules:
                continue
            offset = start + len(name) + 1
            target = self.code.tree.resolve(name, parts[count])
            row = self.code.find_target(target, parts[count]) if target is not None else None
            if row is not None:
                self.code.put(module, offset, row)
            if target is not None and target[1] and len(parts) > count + 1:
                member = self.code.find_member([f"{target[0]}.{target[1]}"], parts[count + 1])
                if member is not None:
                    self.code.put(module, offset + len(parts[count]) + 1, member)
            return

    def _plan_setattr(self, module: str, sketch: Sketch, text: Text, value: str, start: int) -> None:
        if value not in self.code.name_words | self.code.member_words:
            return
        function = text.call.partition("(")[0].rpartition(".")[2]
        if function not in {"setattr", "delattr", "getattr", "hasattr", "object"} or not text.call.endswith("(1"):
            return
        target = self.code.find_module_of(module, sketch, text.scope, text.first) if text.first else None
        row = None
        if target is not None and not target[1]:
            row = self.code.find_target((target[0], value), value)
        elif target is not None:
            row = self.code.find_member([f"{target[0]}.{target[1]}"], value)
        if row is not None and function != "getattr":
            self.code.put(module, start, row)
        elif row is not None or target is None:
            self.code.leave(module, text.line, f"{function} with the string {value}")

    def plan_copies(self) -> None:
        """Keys of `model_copy(update={...})`, where the dictionary is written out."""
        for module, sketch in self.code.sketches.items():
            facts = self.code.world.files.get(module, Facts())
            for text in sketch.texts:
                if not text.call.endswith("model_copy(update"):
                    continue
                value = text.text.strip("'\"")
                row = self.code.find_member(facts.copies.get(text.callee, []), value)
                if row is not None:
                    self.code.put(module, text.start + 1, row, value)
