"""The YAML file: what it means, and every way in which it is refused."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aftermix.config import as_yaml_values, load_config, parse_config, require
from aftermix.errors import AftermixError, ConfigError, ManyProblemsError
from aftermix.yaml_file import parse_yaml, read_yaml

FILE = """
base: google/gemma-3-270m            # hub name or folder
vectors:
  it:   {model: google/gemma-3-270m-it, range: [0.3, 0.9], role: instruction}
  ja:   {model: experts/ja, tokens: 1.0e9}
  math: {model: ./experts/math, weight: 2e-1}
merge: {method: dare_linear, exclude: [embed_tokens, lm_head, rotary], density: 0.7, lambda: 0.5}
evaluate: {tasks: [gsm8k, {task: jmmlu, metric: acc}], include_path: tasks, num_fewshot: 1, items: {search: 64}}
search: {trials: 100, startup: 20, top: 3, objective: {tasks: {gsm8k: 2}, floors: {jmmlu: 0.3}}}
train: {datasets: {ja: data/ja.jsonl, math: {data: data/math.jsonl, tokens: 1e6}}}
"""


def test_the_file_means_what_it_says(tmp_path: Path) -> None:
    (tmp_path / "experts" / "ja").mkdir(parents=True)
    (tmp_path / "a.yaml").write_text(FILE)
    config = load_config(tmp_path / "a.yaml")
    assert config.base == "google/gemma-3-270m"
    assert config.vectors["it"].model == "google/gemma-3-270m-it"
    assert config.vectors["ja"].model == str(tmp_path / "experts/ja")
    assert config.vectors["math"].model == str(tmp_path / "experts/math")
    assert [config.vectors[name].bounds for name in ("it", "ja")] == [(0.3, 0.9), (0.0, 1.0)]
    assert config.vectors["ja"].tokens == 10**9
    assert config.vectors["math"].weight == 0.2
    assert config.merge.options == {"density": 0.7}
    assert config.merge.scale == 0.5
    assert config.evaluate is not None
    assert [(task.task, task.metric) for task in config.evaluate.tasks] == [("gsm8k", None), ("jmmlu", "acc")]
    assert config.evaluate.include_path == str(tmp_path / "tasks")
    assert config.search.objective[0].floors == {"jmmlu": 0.3}
    assert config.train is not None
    assert config.train.datasets["math"].tokens == 10**6
    assert config.train.datasets["ja"].data == str(tmp_path / "data/ja.jsonl")


def test_the_resolved_file_reads_back_to_the_same(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text(FILE)
    config = load_config(tmp_path / "a.yaml")
    again = parse_config(as_yaml_values(config), where="again", folder=Path("/elsewhere"))
    assert again == config
    assert config.evaluate is not None
    assert again.evaluate is not None
    assert again.evaluate.items.model_fields_set == config.evaluate.items.model_fields_set


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("vectors: {a: {model: x, wieght: 1}}", r"vectors\.a\.wieght: is not a known key.*model, weight, range, role"),
        ("vectors: {a: {model: x, weight: .nan}}", r"vectors\.a\.weight: .*finite.*found nan"),
        ("vectors: {a: {model: x, range: [1, 0]}}", r"range must be \[low, high\] with low <= high, found \[1, 0\]"),
        ("vectors: {a: {model: x, weight: 2, range: [0, 1]}}", r"weight must lie within range \[0, 1\], found 2"),
        ("vectors: {a: {model: x, role: teacher}}", r"'instruction' or 'expert', found 'teacher'"),
        ("vectors: {a/b: {model: x}}", r"vectors\.a/b.*pattern"),
        ("merge: {seed: -1}", r"merge\.seed: .*greater than or equal to 0, found -1"),
        ("merge: {dtype: int8}", r"merge\.dtype: .*found 'int8'"),
        ("evaluate: {tasks: []}", r"evaluate\.tasks: .*expected at least 1 of them, found 0"),
        ("evaluate: {tasks: [a, a]}", r"task 'a' is named twice"),
        ("evaluate: {tasks: [a], items: {search: 0}}", r"evaluate\.items\.search: .*greater than 0, found 0"),
        (
            "evaluate: {tasks: [a], items: {test: all}}",
            r"^f.yaml: evaluate\.items\.test: expected `rest` or a count.*'all'",
        ),
        ("search: {trails: 3}", r"search\.trails: is not a known key\. This section takes: trials, startup, top"),
        ("search: {objective: {floors: {a: .nan}}}", r"floors\.a: .*finite number"),
        (
            "mixture: {preset: paper, rounds: [5]}",
            r"`preset: paper` measures one design and takes its optimum, found rounds; remove one of them",
        ),
        (
            "serach: {}",
            r"serach: is not a known key\. This section takes: base, vectors, merge, evaluate, search, train",
        ),
    ],
)
def test_every_wrong_field_is_named(text: str, message: str) -> None:
    with pytest.raises(ManyProblemsError, match=message):
        parse_config(parse_yaml(text, where="f.yaml"), where="f.yaml", folder=Path())


def test_several_wrong_fields_are_told_at_once() -> None:
    with pytest.raises(ManyProblemsError, match="3 problems:") as raised:
        parse_config({"base": 1, "search": {"top": 0}, "extra": 1}, where="f.yaml", folder=Path())
    assert len(raised.value.problems) == 3


def test_missing_sections_are_named() -> None:
    config = parse_config({}, where="f.yaml", folder=Path())
    with pytest.raises(ManyProblemsError, match=r"base: missing from the YAML file\. Add `base:`"):
        require(config, "base", "vectors")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: &a [*a]", r"f\.yaml, line 1: an alias contains itself"),
        ("a: {b: 1, b: 2}", r"line 1: key 'b' appears twice\. Keep one of them"),
        ("- 1", "expected a mapping at the top, found list"),
        ("", "expected a mapping at the top, found nothing"),
        ("a: [", "is not valid YAML"),
        ("a: !!python/object/apply:os.system ['true']", "is not valid YAML .*could not determine a constructor"),
        ("[" * 100 + "]" * 100, "nested deeper than 64"),
        ("[" * 100_000, "is not valid YAML|nested deeper"),
        ("a: 1\n---\nb: 2", "expected a single document"),
    ],
)
def test_hostile_yaml_is_one_clear_error(text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        parse_yaml(text, where="f.yaml")


def test_aliases_that_explode_are_refused() -> None:
    lines = ["a0: &a0 [1, 1, 1, 1, 1, 1, 1, 1, 1, 1]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 12)]
    with pytest.raises(ConfigError, match="aliases expand to more than 100000 values"):
        parse_yaml("\n".join(lines), where="f.yaml")


def test_files_that_cannot_be_read_are_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"none\.yaml: cannot be read"):
        read_yaml(tmp_path / "none.yaml")
    (tmp_path / "large.yaml").write_text("#" * (1 << 20) + "\n")
    with pytest.raises(ConfigError, match=r"expected at most 1048576 bytes, found 1048577"):
        read_yaml(tmp_path / "large.yaml")
    (tmp_path / "binary.yaml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ConfigError, match=r"binary\.yaml: cannot be read"):
        read_yaml(tmp_path / "binary.yaml")


@given(st.text(alphabet=st.sampled_from("abc:{}[]&*!-'\"\n ,#|>0123456789.eE~"), max_size=60))
@settings(max_examples=300)
def test_any_text_is_read_or_refused_in_our_words(text: str) -> None:
    try:
        parse_config(parse_yaml(text, where="f.yaml"), where="f.yaml", folder=Path())
    except AftermixError as error:
        assert "f.yaml" in str(error)


def test_numbers_are_those_of_yaml_1_2() -> None:
    assert parse_yaml("{a: 1e9, b: 2E-5, c: 1.5e+3, d: 1.0e9, e: 12}", where="f") == {
        "a": 1e9,
        "b": 2e-5,
        "c": 1500.0,
        "d": 1e9,
        "e": 12,
    }
