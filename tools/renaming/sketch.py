"""Sketch of a source file: every identifier with its scope and place, light enough to keep for a whole tree."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass
class Scope:
    """One scope: its kind, its parent's number, the path of the definition that it belongs to, what it binds."""

    kind: str
    parent: int | None
    path: str
    line: int = 0
    params: list[str] = field(default_factory=list)
    guarded: bool = False
    bound: set[str] = field(default_factory=set)
    declared_global: set[str] = field(default_factory=set)
    declared_nonlocal: set[str] = field(default_factory=set)
    imports: dict[str, tuple[str, str]] = field(default_factory=dict)


@dataclass(frozen=True)
class Name:
    """One identifier that a scope decides."""

    text: str
    start: int
    scope: int
    line: int
    binds: bool


@dataclass(frozen=True)
class Attribute:
    """One `.name`, with the dotted path before it where that is plain, and its end as the type checker counts it."""

    text: str
    start: int
    scope: int
    line: int
    end: tuple[int, int]
    root: str


@dataclass(frozen=True)
class Keyword:
    """One keyword argument, with the end of the callee as the type checker counts it."""

    text: str
    start: int
    scope: int
    line: int
    callee: tuple[int, int]
    function: str
    decorated: int | None


@dataclass(frozen=True)
class Imported:
    """One name of a `from ... import`."""

    text: str
    start: int
    module: str
    line: int


@dataclass(frozen=True)
class Text:
    """One string literal or comment: its source text and what it is for."""

    text: str
    start: int
    scope: int
    line: int
    role: str
    call: str = ""
    first: str = ""
    callee: tuple[int, int] = (0, 0)
    decorated: int | None = None


@dataclass
class Sketch:
    """All identifiers of a file."""

    scopes: list[Scope] = field(default_factory=list)
    names: list[Name] = field(default_factory=list)
    attributes: list[Attribute] = field(default_factory=list)
    keywords: list[Keyword] = field(default_factory=list)
    imports: list[Imported] = field(default_factory=list)
    texts: list[Text] = field(default_factory=list)

    def resolve(self, text: str, scope: int) -> int | None:
        """Number of the scope that decides this name where it is used; None for a builtin."""
        number: int | None = scope
        while number is not None:
            here = self.scopes[number]
            if text in here.declared_global:
                return 0
            visible = here.kind != "class" or number == scope
            if visible and text in here.bound and text not in here.declared_nonlocal:
                return number
            number = here.parent
        return None
