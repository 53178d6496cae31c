"""Expressions: what they give, and that nothing else is taken."""

from __future__ import annotations

import ast
import operator

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from aftermix.errors import MixtureError
from aftermix.mixture.expression import LONGEST_TEXT, parse_expression

NAMES = ["math", "ja", "zh-tw", "数学"]
SCORES = {
    "math": np.array([0.5, 0.1]),
    "ja": np.array([0.25, 0.9]),
    "zh-tw": np.array([0.75, 0.2]),
    "数学": np.array([4.0, 9.0]),
}


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("math", [0.5, 0.1]),
        ("0.5*math + min(ja, 'zh-tw')", [0.5, 0.25]),
        ("-(math - 1) ** 2", [-0.25, -0.81]),
        ("max(math, ja, 0.6) / 2", [0.3, 0.45]),
        ("mean(math, ja)", [0.375, 0.5]),
        ("sqrt(数学) + abs(-ja)", [2.25, 3.9]),
        ("log(exp(math)) + 1e-1", [0.6, 0.2]),
        (" math\n  + ja ", [0.75, 1.0]),
        ("+math", [0.5, 0.1]),
        ("min(math)", [0.5, 0.1]),
    ],
)
def test_values(text: str, values: list[float]) -> None:
    found = parse_expression(text, capabilities=NAMES).values(SCORES)
    np.testing.assert_allclose(found, values, atol=1e-12)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("math + ", r"utility: cannot be read at column \d+ \(invalid syntax\). Use numbers, capabilities, "),
        ("", "utility: cannot be read at column 1"),
        (
            "math + physics",
            "utility, column 8: expected a capability, found 'physics'. Name some of: math, ja, zh-tw, 数学.",
        ),
        ("  math + physics", "column 10: expected a capability, found 'physics'"),
        ("数学 + 'zh'", "column 6: expected a capability, found 'zh'"),
        ("eval(math)", "column 1: expected a function among min, max, mean, abs, exp, log, sqrt, found 'eval'"),
        ("math.real", r"column 1: found 'math.real', which is no part of an expression"),
        ("min(math, key=ja)", r"expected min with one argument or more, found 'min\(math, key=ja\)'"),
        ("sqrt(math, ja)", "expected sqrt with one argument"),
        ("min()", "expected min with one argument or more"),
        ("min(*math)", "which is no part of an expression"),
        ("__import__('os').system('ls')", "expected a function among"),
        ("(lambda: math)()", "expected a function among"),
        ("[math for math in ja]", "which is no part of an expression"),
        ("math if ja else 1", "which is no part of an expression"),
        ("math and ja", "which is no part of an expression"),
        ("math < ja", "which is no part of an expression"),
        ("math // ja", "which is no part of an expression"),
        ("math[0]", "which is no part of an expression"),
        ("(math := 3)", "which is no part of an expression"),
        ("f'{math}'", "which is no part of an expression"),
        ("True * math", "expected a number, found 'True'"),
        ("1j * math", "expected a number, found '1j'"),
        ("None", "expected a number, found 'None'"),
        ("b'math'", "expected a number"),
        ("1 + 2", r"utility: '1 \+ 2' names no capability. Name some of"),
        ("math; ja", "cannot be read at column 5"),
        ("math" + " + 1" * 600, "utility: an expression of 2404 characters. Shorten it."),
        ("+".join(["math"] * 200), "utility: an expression of more than 300 parts"),
        ("-" * 1500 + "math", "more than 300 parts|cannot be read"),
        ("(" * 900 + "math" + ")" * 900, "cannot be read"),
        ("1" * 1000 + "*math", "a number that is too large. Use a smaller one"),
        ("math\0", "cannot be read"),
    ],
)
def test_refusals_name_the_place(text: str, said: str) -> None:
    with pytest.raises(MixtureError, match=said):
        parse_expression(text, capabilities=NAMES)


def test_what_has_no_value_is_not_a_number_and_no_warning() -> None:
    with np.errstate(all="raise"):
        found = parse_expression("log(math - 0.1) + 10.0 ** 400.0 ** 2 * 0", capabilities=NAMES).values(SCORES)
    assert np.isnan(found).all()


LEAVES = st.sampled_from(["math", "ja", "0.5", "2.0"])
TEXTS = st.recursive(
    LEAVES,
    lambda inner: st.one_of(
        st.tuples(inner, st.sampled_from("+-*"), inner).map(lambda parts: f"({parts[0]} {parts[1]} {parts[2]})"),
        st.tuples(st.sampled_from(["min", "max"]), inner, inner).map(lambda p: f"{p[0]}({p[1]}, {p[2]})"),
        inner.map(lambda text: f"-{text}"),
    ),
    max_leaves=8,
)


def slow(node: ast.expr, names: dict[str, float]) -> float:
    """The value of a tree of the texts above, one number at a time."""
    operators = {ast.Add: operator.add, ast.Sub: operator.sub, ast.Mult: operator.mul}
    match node:
        case ast.Constant():
            return float(node.value)
        case ast.Name():
            return names[node.id]
        case ast.UnaryOp():
            return -slow(node.operand, names)
        case ast.BinOp():
            return operators[type(node.op)](slow(node.left, names), slow(node.right, names))
        case _:
            return {"min": min, "max": max}[node.func.id](*(slow(argument, names) for argument in node.args))


@given(TEXTS, st.floats(-2, 2), st.floats(-2, 2))
def test_it_computes_what_python_would(text: str, math: float, ja: float) -> None:
    if "math" not in text and "ja" not in text:
        text = f"math * 0 + {text}"
    values = {"math": np.array([math]), "ja": np.array([ja])}
    found = parse_expression(text, capabilities=["math", "ja"]).values(values)
    expected = slow(ast.parse(text, mode="eval").body, {"math": math, "ja": ja})
    assert np.broadcast_to(found, 1)[0] == pytest.approx(expected, rel=1e-12, abs=1e-12)


@given(st.text(max_size=60))
def test_any_text_is_read_or_refused(text: str) -> None:
    try:
        parse_expression(text, capabilities=NAMES)
    except MixtureError as error:
        assert str(error).startswith("utility")
    assert len(text) <= LONGEST_TEXT


@pytest.mark.parametrize(
    ("text", "column", "name"),
    [("0.5*jp-math + ja", 5, "jp-math"), ("min(zh-tw, ja)", 5, "zh-tw"), ("7b", 1, "7b"), ("ja + v1.5", 6, "v1.5")],
)
def test_a_name_that_reads_otherwise_must_stand_in_quotes(text: str, column: int, name: str) -> None:
    # `jp` and `math` are capabilities, too: the difference of the two would be another number, silently.
    known = ["jp-math", "jp", "math", "ja", "zh-tw", "7b", "v1.5"]
    with pytest.raises(MixtureError) as caught:
        parse_expression(text, capabilities=known)
    told = f"utility, column {column}: the capability {name} stands without quotes. Write '{name}', in quotes."
    assert str(caught.value).startswith(told)
    assert parse_expression(text.replace(name, f"'{name}'"), capabilities=known).names[0] in (name, "ja")
    assert parse_expression("jp - math", capabilities=known).names == ("jp", "math")
