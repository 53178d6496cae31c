"""Targets: the YAML file, as raw text and as values that come close to what the sections take."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from aftermix.checkpoints.names import build_matcher
from aftermix.config import Config, as_yaml_values, load_config, parse_config, require
from aftermix.jobs.provenance import format_recipe
from aftermix.merging.recipe import MergeRecipe, check_weights
from fuzz.draw import Draw, as_json
from fuzz.oracle import check
from fuzz.place import place

SEEDS = (
    "base: base\nvectors:\n  a: {model: x, weight: 2e-1, range: [0, 1], role: expert, tokens: 1.0e9}\n",
    "merge: {method: dare_linear, exclude: [embed_tokens, 're:norm$', '*.layers.?.*'], density: 0.7, lambda: 0.5}\n",
    "merge: {intra: {rule: magnitude, density: 0.3}, inter: sum, dtype: bfloat16, max_shard_bytes: 1e9}\n",
    "evaluate: {tasks: [a, {task: b, metric: acc}], items: {search: 64}}\nsearch: {objective: [{tasks: {a: 2}}]}\n",
    "train: {datasets: {ja: data/ja.jsonl, math: {data: m.jsonl, tokens: 1e6}}, betas: [0.9, 0.95]}\n",
    "a: &a [1, *b]\nb: &b {<<: *a, <<: {x: 1}}\n",
    "a: !!python/object/apply:os.system ['true']\nb: !!timestamp x\nc: !!int ''\nd: !!bool x\ne: !!binary x\n",
    "a: 1:1:1:1\nb: 0xff\nc: 0b1\nd: 2001-99-99\ne: .inf\nf: .nan\ng: ~\nh: 0o7\ni: 1_000\nj: 1:1.5\n",
    "? [a]\n: b\n? {c: d}\n: e\n--- \n...\n%YAML 1.1\n",
    "a: |\n  x\n  y\nb: >-\n  z\nc: \"\\x41\\u263a\\n\"\nd: 'it''s'\n# remark\n",
)
SECTIONS: dict[str, tuple[str, ...]] = {
    "merge": (
        "method",
        "intra",
        "inter",
        "exclude",
        "seed",
        "dtype",
        "lambda",
        "max_shard_bytes",
        "density",
        "normalize",
    ),
    "search": ("trials", "startup", "top", "preset", "seed", "objective", "baselines", "max_consecutive_failures"),
    "evaluate": ("tasks", "include_path", "num_fewshot", "items", "engine", "batch_size", "device", "threads"),
    "train": ("datasets", "context", "betas", "freeze", "schedule", "min_lr_rate", "seed"),
    "vectors": ("a", "b", "a b", "é", "x" * 80),
}
WORDS: tuple[Any, ...] = (
    *("ties", "linear", "dare_ties", "tise", "magnitude", "sum", "all", "auto", "expert", "instruction", "bfloat16"),
    *("re:(", "re:a{99999999999}", "re:" + "(" * 400 + ")" * 400, "*", "[", "[!", "~nobody-of-that-name/x", "a" * 5000),
    *("base", "./base", "/dev/zero", "..", "\n", " ", "a/b", "a/b/c", "\x00", "'; rm -rf /", "{{ 7 * 7 }}"),
    *([0, 1], [1, 0], ["a", "a"], {"rule": "magnitude", "density": 0.3}, {"task": "a"}, {"model": "x"}, {"data": "x"}),
    *({"model": "base", "weight": 0.5}, {"model": "x", "range": [0, 1], "weight": 2}, {"a": {"model": "x"}}),
)


def yaml_text(data: bytes) -> None:
    """`data` is the file."""
    file = place().fill({"aftermix.yaml": data}) / "aftermix.yaml"
    check(lambda: _use(load_config(file)), readable=place().readable)


def yaml_values(data: bytes) -> None:
    """`data` decides keys and values of the file."""
    draw = Draw(data)
    values: dict[Any, Any] = {"base": "base"} if not draw.rarely() else {draw.pick(WORDS[:20]): draw.value()}
    for _ in range(1 + draw.below(3)):
        section = draw.pick(tuple(SECTIONS))
        keys = SECTIONS[section]
        values[section] = _word(draw) if draw.rarely() else {draw.pick(keys): _word(draw) for _ in range(draw.below(4))}
    folder = place().fill({})
    check(lambda: _use(parse_config(values, where="f.yaml", folder=folder)), readable=place().readable)


def yaml_dumped(data: bytes) -> None:
    """As `yaml_values`, written out and damaged."""
    draw = Draw(data)
    values = {section: {draw.pick(keys): _word(draw) for _ in range(2)} for section, keys in SECTIONS.items()}
    text = yaml.safe_dump(values, allow_unicode=draw.rarely(), default_flow_style=draw.pick((True, False, None)))
    for nesting in ("nested 50 list", "nested 58 dict"):
        text = text.replace(nesting, as_json(nesting).decode())
    yaml_text(draw.damaged(text.encode("utf-8", "surrogatepass")))


def _word(draw: Draw) -> Any:
    kind = draw.below(4)
    if kind == 0:
        return draw.value()
    return draw.pick(WORDS) if kind < 3 else [draw.pick(WORDS) for _ in range(draw.below(4))]


def _use(config: Config) -> None:
    """All that a merge does with a file before it opens a model, and that a run folder does with it."""
    recipe = MergeRecipe.from_config(config.merge)
    excluded = build_matcher(recipe.exclude, where="merge.exclude")
    excluded("model.layers.0.self_attn.q_proj.weight")
    weights = {name: vector.weight for name, vector in config.vectors.items()}
    check_weights(recipe, weights)
    yaml.safe_load(format_recipe(config, recipe, weights, folder=Path()))
    parse_config(as_yaml_values(config), where="again.yaml", folder=Path("/"))
    require(config, "base", "vectors")
