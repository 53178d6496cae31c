"""Names of one tree by their names in the other, and the comparison of what is spelt."""

from __future__ import annotations

from dataclasses import dataclass, field

from tools.renaming.rows import Rows
from tools.renaming.tree import Tree

Token = tuple[object, ...]


@dataclass
class Speller:
    """What a name of one tree is called in the new one; without rows, every name is its own."""

    tree: Tree
    rows: Rows
    words: dict[str, str] = field(init=False)
    locals: dict[tuple[str, str, str], str] = field(init=False)

    def __post_init__(self) -> None:
        self.words = {row.old: row.new for row in self.rows.of("word")}
        self.locals = {(row.module, row.owner, row.old): row.new for row in self.rows.of("local", "param")}

    def spell_local(self, module: str, path: str, text: str) -> frozenset[str]:
        """The names that a local name may have."""
        if (module, path, text) in self.locals:
            return frozenset({self.locals[module, path, text]})
        return frozenset({text, self.words.get(text, text)})

    def spell_global(self, module: str, name: str) -> tuple[str, str]:
        """The module and name of a definition."""
        if not name:
            return self.rows.modules.get(module, module), ""
        return self.rows.find_module(module, name), self.rows.names.get((module, name), name)

    def qualify(self, module: str, target: tuple[str, str]) -> tuple[str, str]:
        """Where an imported name leads in the end, through re-exports."""
        step = self.tree.follow(module, target)
        if step is None:
            return target
        if not step[1]:
            return self.spell_global(*step)
        resolved = self.tree.resolve(*step)
        return self.spell_global(*(resolved or step))

    def spell_string(self, value: str) -> str:
        """A string that names a module or a definition of the project, by its new name."""
        head, colon, path = value.partition(":")
        parts = head.split(".")
        for count in range(len(parts), 0, -1):
            module = ".".join(parts[:count])
            if module not in self.tree.modules or (count == 1 and not colon):
                continue
            rest = [*parts[count:], *(path.split(".") if path else [])]
            if not rest:
                return self.spell_global(module, "")[0]
            new, _ = self.spell_global(module, rest[0])
            renamed = self.rows.rename_path(module, ".".join(rest))
            return f"{new}{':' if colon else '.'}{renamed}"
        return value


class Matcher:
    """Decides whether two tokens say the same; the types of objects are unknown here, so members match by name."""

    def __init__(self, rows: Rows) -> None:
        self.members = {(row.old, row.new) for row in rows.of("member")}
        self.keywords = self.members | {(row.old, row.new) for row in rows.of("local", "param", "word")}
        self.names = self.members | {(row.old, row.new) for row in rows.of("name")}

    def match(self, old: list[Token], new: list[Token]) -> bool:
        """Whether two lists of tokens are the same code."""
        if len(old) != len(new):
            return False
        return all(
            self._match_one(one, other, old, place) for place, (one, other) in enumerate(zip(old, new, strict=True))
        )

    def _match_one(self, old: Token, new: Token, tokens: list[Token], place: int) -> bool:
        if old[0] != new[0]:
            return False
        pair = (old[-1], new[-1])
        if old[0] in {"attr", "member"}:
            return pair[0] == pair[1] or pair in self.members
        if old[0] == "keyword":
            return pair[0] == pair[1] or pair in self.keywords
        if old[0] == "local":
            return old[1] == new[1] and new[2] <= old[2]  # type: ignore[operator]
        if old[0] == "string":
            near = any(token == ("string call",) for token in tokens[max(0, place - 40) : place])
            return old[2] == new[1] or (near and (old[1], new[1]) in self.names)
        return old == new
