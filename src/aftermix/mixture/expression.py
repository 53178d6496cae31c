"""Arithmetic over capability scores, read from text and never run as Python.

Grammar: numbers, capabilities, `+ - * / **`, brackets and the functions of `FUNCTIONS`. A capability whose name is no
Python identifier stands in quotes: `0.5 * math + min(ja, 'pile-cc')`. The text is parsed with `ast`, and every node
that is not on that list is refused with its place.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from aftermix.errors import MixtureError
from aftermix.mixture.simplex import Floats

LONGEST_TEXT = 2000
MOST_NODES = 300

Term = Callable[[Mapping[str, Floats]], Floats]
"""From the scores by capability, (C,) each, to values (C,)."""

OPERATORS: dict[type[ast.operator], Callable[[Floats, Floats], Floats]] = {
    ast.Add: np.add,
    ast.Sub: np.subtract,
    ast.Mult: np.multiply,
    ast.Div: np.divide,
    ast.Pow: np.power,
}
FUNCTIONS: dict[str, tuple[Callable[[Floats], Floats], int | None]] = {
    "min": (lambda rows: np.asarray(rows.min(axis=0)), None),
    "max": (lambda rows: np.asarray(rows.max(axis=0)), None),
    "mean": (lambda rows: np.asarray(rows.mean(axis=0)), None),
    "abs": (lambda rows: np.abs(rows[0]), 1),
    "exp": (lambda rows: np.exp(rows[0]), 1),
    "log": (lambda rows: np.log(rows[0]), 1),
    "sqrt": (lambda rows: np.sqrt(rows[0]), 1),
}
"""Function of the stacked arguments, and how many it takes (None: one or more)."""
QUOTED = re.compile(r"'[^']*'|\"[^\"]*\"")
REMEDY = f"Use numbers, capabilities, + - * / **, brackets and {', '.join(FUNCTIONS)}."


@dataclass(frozen=True)
class ScoreExpression:
    """A parsed text."""

    text: str
    names: tuple[str, ...]
    """Capabilities in it, in the order of their first mention."""
    term: Term

    def values(self, scores: Mapping[str, Floats]) -> Floats:
        """(C,) the text's value at (C,) scores of each capability; NaN or Inf where it has none."""
        with np.errstate(all="ignore"):
            return np.asarray(self.term(scores), dtype=np.float64)


def parse_expression(text: str, *, capabilities: Sequence[str], where: str = "utility") -> ScoreExpression:
    """`text` over `capabilities`.

    Raises :class:`MixtureError`, with the column, for broken syntax, unknown names and what the grammar lacks; for a
    name such as `zh-tw` without quotes, which reads as a difference; and for a text that names no capability.

    >>> expression = parse_expression("0.5*math + min(ja, 'zh-tw')", capabilities=["math", "ja", "zh-tw"])
    >>> expression.names
    ('math', 'ja', 'zh-tw')
    >>> expression.values({"math": np.array([1.0]), "ja": np.array([0.3]), "zh-tw": np.array([0.2])}).tolist()
    [0.7]
    """
    _refuse_unquoted_names(text, capabilities, where)
    flat = text.translate({ord(character): " " for character in "\r\n\t\f"})
    stripped = flat.lstrip()
    reader = _Reader(stripped.rstrip(), len(flat) - len(stripped), tuple(capabilities), where)
    return reader.expression(text)


def _refuse_unquoted_names(text: str, capabilities: Sequence[str], where: str) -> None:
    """A name that Python would take apart must stand in quotes, also where its parts are capabilities."""
    unquoted = QUOTED.sub(lambda match: " " * len(match[0]), text)
    for name in capabilities:
        if name.isidentifier() or not re.search("[^\\W\\d_]", name):
            continue
        if found := re.search(rf"(?<![\w.-]){re.escape(name)}(?![\w.-])", unquoted):
            remedy = f"Write '{name}', in quotes."
            spaced = name.replace("-", " - ")
            remedy += f" A difference has spaces: {spaced}." if "-" in name else ""
            place = f"{where}, column {found.start() + 1}"
            raise MixtureError(place, f"the capability {name} stands without quotes", remedy)


@dataclass(frozen=True)
class _Reader:
    """Turns nodes into terms."""

    text: str
    indent: int
    capabilities: tuple[str, ...]
    where: str

    def expression(self, written: str) -> ScoreExpression:
        root = self._parsed()
        if sum(1 for _ in ast.walk(root)) > MOST_NODES:
            raise MixtureError(self.where, f"an expression of more than {MOST_NODES} parts", "Shorten it.")
        names: dict[str, None] = {}
        term = self._term(root, names)
        if not names:
            raise MixtureError(self.where, f"'{self.text}' names no capability", f"{self._known()}.")
        return ScoreExpression(written, tuple(names), term)

    def _parsed(self) -> ast.expr:
        if len(self.text) > LONGEST_TEXT:
            raise MixtureError(self.where, f"an expression of {len(self.text)} characters", "Shorten it.")
        try:
            return ast.parse(self.text, mode="eval").body
        except SyntaxError as error:
            column = (error.offset or 1) + self.indent
            found = f"cannot be read at column {column} ({error.msg})"
            raise MixtureError(self.where, found, REMEDY) from error
        except (ValueError, RecursionError, MemoryError) as error:
            raise MixtureError(self.where, f"cannot be read ({error})", REMEDY) from error

    def _term(self, node: ast.expr, names: dict[str, None]) -> Term:
        if isinstance(node, ast.Constant):
            return self._constant(node, names)
        if isinstance(node, ast.Name):
            return self._capability(node, node.id, names)

        if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub | ast.UAdd):
            operand, sign = self._term(node.operand, names), -1.0 if isinstance(node.op, ast.USub) else 1.0
            return lambda scores: np.multiply(sign, operand(scores))
        if isinstance(node, ast.BinOp) and type(node.op) in OPERATORS:
            left, operator, right = (
                self._term(node.left, names),
                OPERATORS[type(node.op)],
                self._term(node.right, names),
            )
            return lambda scores: operator(left(scores), right(scores))

        if isinstance(node, ast.Call):
            return self._call(node, names)
        raise self._refusal(node, f"found '{self._source(node)}', which is no part of an expression", REMEDY)

    def _constant(self, node: ast.Constant, names: dict[str, None]) -> Term:
        if isinstance(node.value, str):
            return self._capability(node, node.value, names)
        if isinstance(node.value, bool) or not isinstance(node.value, int | float):
            raise self._refusal(node, f"expected a number, found '{self._source(node)}'", REMEDY)
        try:
            number = np.asarray(float(node.value))
        except OverflowError:
            raise self._refusal(node, "a number that is too large", "Use a smaller one.") from None
        return lambda _scores: number

    def _capability(self, node: ast.expr, name: str, names: dict[str, None]) -> Term:
        if name not in self.capabilities:
            raise self._refusal(node, f"expected a capability, found '{name}'", f"{self._known()}.")
        names.setdefault(name)
        return lambda scores: scores[name]

    def _call(self, node: ast.Call, names: dict[str, None]) -> Term:
        called = node.func.id if isinstance(node.func, ast.Name) else self._source(node.func)
        if called not in FUNCTIONS or not isinstance(node.func, ast.Name):
            raise self._refusal(node, f"expected a function among {', '.join(FUNCTIONS)}, found '{called}'", REMEDY)
        function, takes = FUNCTIONS[called]
        if node.keywords or not node.args or takes not in (None, len(node.args)):
            wanted = "one argument or more" if takes is None else "one argument"
            raise self._refusal(node, f"expected {called} with {wanted}, found '{self._source(node)}'", REMEDY)
        arguments = [self._term(argument, names) for argument in node.args]
        return lambda scores: function(np.stack(np.broadcast_arrays(*(term(scores) for term in arguments))))

    def _refusal(self, node: ast.expr, found: str, remedy: str) -> MixtureError:
        # ast counts bytes; a reader counts characters.
        column = len(self.text.encode()[: node.col_offset].decode()) + 1 + self.indent
        return MixtureError(f"{self.where}, column {column}", found, remedy)

    def _source(self, node: ast.expr) -> str:
        return ast.get_source_segment(self.text, node) or type(node).__name__

    def _known(self) -> str:
        return f"Name some of: {', '.join(self.capabilities)}"
