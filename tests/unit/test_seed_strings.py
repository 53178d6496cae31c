"""Strings that seed a stream are data: whoever renames one draws other numbers, and old runs no longer go on."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

import aftermix
from aftermix.seeds import derived_seed, generator, keep_mask

SOURCE = Path(str(aftermix.__file__)).parent
SEEDS = {"derived_seed": 1, "generator": 1, "keep_mask": 3}
"""Functions that take a key, and the place of its first part."""
PINNED = [
    "",
    "batch {}",
    "batch {}, place {}",
    "bootstrap",
    "calibration",
    "candidates",
    "certificate",
    "coefficient",
    "consistency",
    "damage",
    "design",
    "document order",
    "doremi",
    "experts",
    "few-shot",
    "held out",
    "interleave",
    "items",
    "lora",
    "magnitude sampled",
    "merge-aware",
    "mixture",
    "mixture bootstrap",
    "mixture candidates",
    "mixture design",
    "mixture prediction",
    "mixtures",
    "noise",
    "objective",
    "objective weights",
    "objective {}",
    "optimism",
    "random mask",
    "random selection",
    "regmix",
    "response temperature",
    "robustness",
    "sampled optima",
    "sampler",
    "select rounds",
    "summand",
    "surrogate bootstrap",
    "surrogate folds",
    "table",
    "table offset",
    "texts",
    "utility",
    "verified mixtures",
    "windows",
    "winner trial {}",
    "{} {}",
]
"""`{}` stands for what is computed."""

Function = ast.FunctionDef | ast.AsyncFunctionDef


@dataclass(frozen=True)
class Keyed:
    """A parameter of a function, by the name of both, that becomes part of a key; all that follow too where it is
    `*key`.
    """

    function: str
    name: str | None
    place: int | None
    rest: bool = False

    def arguments(self, call: ast.Call) -> Iterator[ast.expr]:
        """The expressions in `call` that this parameter takes."""
        if self.place is not None:
            yield from call.args[self.place : None if self.rest else self.place + 1]
        yield from (keyword.value for keyword in call.keywords if keyword.arg == self.name)


def enclosed_calls(tree: ast.Module) -> Iterator[tuple[ast.Call, tuple[Function, ...]]]:
    """Every call with the functions around it, the innermost first."""

    def visit(node: ast.AST, around: tuple[Function, ...]) -> Iterator[tuple[ast.Call, tuple[Function, ...]]]:
        if isinstance(node, ast.Call):
            yield node, around
        inner = (node, *around) if isinstance(node, Function) else around
        for child in ast.iter_child_nodes(node):
            yield from visit(child, inner)

    yield from visit(tree, ())


def called(call: ast.Call) -> str:
    """The last name of what is called."""
    return call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, "id", "")


def strings_in(value: ast.expr, around: tuple[Function, ...]) -> Iterator[str | Keyed]:
    """The literals that `value` puts into a key, `{}` for what is computed, and parameters that it takes them from."""
    if isinstance(value, ast.Constant):
        if isinstance(value.value, str):
            yield value.value
    elif isinstance(value, ast.JoinedStr):
        yield "".join(str(part.value) if isinstance(part, ast.Constant) else "{}" for part in value.values)
    elif isinstance(value, ast.Starred):
        yield from strings_in(value.value, around)
    elif isinstance(value, ast.GeneratorExp):
        yield from strings_in(value.elt, around)
    elif isinstance(value, ast.Tuple | ast.List):
        for element in value.elts:
            yield from strings_in(element, around)
    elif isinstance(value, ast.Name):
        yield from strings_of(value.id, around)


def strings_of(name: str, around: tuple[Function, ...]) -> Iterator[str | Keyed]:
    """The same of a variable: one of the innermost function that assigns it or has it as a parameter."""
    for function in around:
        assigned = [
            node.value
            for node in ast.walk(function)
            if isinstance(node, ast.Assign) and any(getattr(target, "id", None) == name for target in node.targets)
        ]
        if assigned:
            for value in assigned:
                # A variable that is made from itself would go round for ever.
                if not any(getattr(node, "id", None) == name for node in ast.walk(value)):
                    yield from strings_in(value, around)
            return
        found = parameter(function, name)
        if found is not None:
            yield found
            yield from default_of(function, name)
            return


def parameter(function: Function, name: str) -> Keyed | None:
    """The parameter `name` of `function`, as callers give it."""
    arguments = function.args
    ordered = [one.arg for one in (*arguments.posonlyargs, *arguments.args)]
    bound = 1 if ordered[:1] in (["self"], ["cls"]) else 0
    if name in ordered:
        return Keyed(function.name, name, ordered.index(name) - bound)
    if arguments.vararg is not None and arguments.vararg.arg == name:
        return Keyed(function.name, None, len(ordered) - bound, rest=True)
    if name in (one.arg for one in arguments.kwonlyargs):
        return Keyed(function.name, name, None)
    return None


def default_of(function: Function, name: str) -> Iterator[str]:
    """The default of the parameter `name`, if it is a string."""
    arguments = function.args
    ordered = [*arguments.posonlyargs, *arguments.args]
    given = [*zip(ordered[::-1], arguments.defaults[::-1], strict=False)]
    given += [(one, value) for one, value in zip(arguments.kwonlyargs, arguments.kw_defaults, strict=True) if value]
    for one, value in given:
        if one.arg == name and isinstance(value, ast.Constant) and isinstance(value.value, str):
            yield value.value


def seed_strings(source: Path) -> set[str]:
    """Every string literal below `source` that reaches a key, through any number of functions that hand it on."""
    trees = [ast.parse(path.read_text(encoding="utf-8")) for path in sorted(source.rglob("*.py"))]
    calls = [pair for tree in trees for pair in enclosed_calls(tree)]
    waiting = [Keyed(name, None, place, rest=True) for name, place in SEEDS.items()]
    seen, strings = set(waiting), set()
    while waiting:
        keyed = waiting.pop()
        for call, around in calls:
            if called(call) != keyed.function:
                continue
            for part in (part for argument in keyed.arguments(call) for part in strings_in(argument, around)):
                if isinstance(part, str):
                    strings.add(part)
                elif part not in seen and part.function not in SEEDS:
                    seen.add(part)
                    waiting.append(part)
    return strings


def test_no_string_that_seeds_a_stream_has_another_name() -> None:
    assert sorted(seed_strings(SOURCE)) == PINNED


def test_a_string_is_found_behind_the_functions_and_variables_that_hand_it_on(tmp_path: Path) -> None:
    (tmp_path / "one.py").write_text(
        "def order(count, seed, *key):\n    return generator(seed, 'outer', *key)\n"
        "def shuffle(self, seed, *, name='whole'):\n    key = (name, 'variable')\n    return order(3, seed, *key)\n"
        "shuffle(0, name=f'task {number}')\nother('no key')\n"
    )
    assert seed_strings(tmp_path) == {"outer", "variable", "whole", "task {}"}


@pytest.mark.parametrize(
    ("key", "seed"),
    [
        (("sampler", 3), 1644599917966982697),
        (("items", "gsm8k", "gsm8k", "4"), 449792609135016740),
        (("few-shot", "gsm8k"), 4132073340163320696),
        (("random selection", "a", "model.norm.weight", 0), 6451146641133431058),
        (("noise", "model.norm.weight", 1, 0), 6604679650278685864),
        (("coefficient", 0), 3595297856369933291),
        (("merge-aware",), 5655734644631502706),
        (("mixture design",), 5073167780311108319),
        (("lora",), 6958777409998977821),
    ],
)
def test_a_key_gives_the_seed_that_it_always_gave(key: tuple[str | int, ...], seed: int) -> None:
    assert derived_seed(0, *key) == seed


def test_a_stream_begins_with_the_numbers_that_it_always_had() -> None:
    # Raw draws: what NumPy's Generator makes of them may change between its releases.
    raw = generator(0, "items", "gsm8k").bit_generator.random_raw(3).tolist()
    assert raw == [17649582445452943448, 4810857711012654594, 10590669300088782924]
    mask = keep_mask(24, 0.5, 0, "random mask", "a", "model.norm.weight", 0)
    assert "".join(str(int(bit)) for bit in mask) == "110110010100000110110011"
