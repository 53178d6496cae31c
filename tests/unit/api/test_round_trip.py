"""What the file can say keywords can, by the same names, and back; of every section and every key."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

import aftermix
from aftermix.api.sections import IN_FILE, extend_config, place_options
from aftermix.config import Config, as_yaml_values, parse_config
from aftermix.config.file import list_fields

SECTIONS = ("merge", "evaluate", "search", "train", "mixture", "iterate", "track", "calibrate")
FILE = """
base: /m/base
vectors:
  ja: {model: /m/ja, range: [0.1, 0.9], tokens: 2000000, density: 0.4, calibration: {data: /d/ja.jsonl}}
  math: {model: /m/math, weight: 0.3, prefix: {"model.": "transformer."}, ratio: 0.5}
  it: {model: owner/it, role: instruction}
merge: {method: ties, density: 0.3, exclude: ["re:norm", "lm_head"], lambda: 0.8, seed: 4, dtype: bfloat16}
evaluate:
  tasks: [gsm8k, {task: arc_easy, metric: acc_norm, num_fewshot: 5}]
  items: {search: 50, select: 60, seed: 2}
  gen_kwargs: {temperature: 0}
  threads: 2
search:
  trials: 9
  strategy: tpe
  objective: [{tasks: {gsm8k: 2.0}, floors: {arc_easy: 0.3}, name: both}]
  over: {weights: true, density: {low: 0.1, high: 0.9, step: 0.1}}
train:
  datasets: {ja: {data: /d/ja, tokens: 1000000}, both: {mixture: {ja: 0.5, en: 0.5}, tokens: 2000000}}
  sources: {en: /d/en.jsonl}
  optimizer: {name: merge_aware, scale: 0.001}
  schedule: wsd
  decay_share: 0.2
mixture:
  points: 12
  rounds: [4, 4]
  utility: {weights: {gsm8k: 1.0}, floors: {arc_easy: 0.2}}
  bounds: {ja: [0.1, 0.8]}
  budget_tokens: 1000000000
  max_epochs: 4
compare:
  theirs: {model: /m/theirs, instruction: 0.6}
  even: {weights: {ja: 0.5, math: 0.5}, instruction: tuned}
  mixed: {train: {ratios: {ja: 0.7, math: 0.3}, tokens: 5000, seeds: 2}}
calibrate: {samples: 10, context: 128}
track: {to: [tensorboard], project: p}
iterate: {rounds: 2, ranges: {ja: [0.1, 0.9]}}
tensor_names: {"decoder.layers.fc1[*]": ["layers.*.gate", "layers.*.up"]}
"""


@pytest.fixture
def config() -> Config:
    return parse_config(yaml.safe_load(FILE), where="aftermix.yaml", folder=Path("/"))


def test_a_whole_file_is_a_pool_and_a_pool_a_whole_file(config: Config, tmp_path: Path) -> None:
    values = as_yaml_values(config)
    assert {*SECTIONS, "base", "vectors", "compare", "tensor_names"} == set(values) == set(Config.model_fields)
    pool = aftermix.Pool(values.pop("base"), values.pop("vectors"), **values)
    assert pool.config == config

    pool.config.write(tmp_path / "aftermix.yaml")
    assert aftermix.Config.read(tmp_path / "aftermix.yaml") == config


@pytest.mark.parametrize("section", SECTIONS)
def test_the_keys_of_a_section_are_keywords(config: Config, section: str) -> None:
    plain = aftermix.Pool("/m/base", as_yaml_values(config)["vectors"]).config
    keys = as_yaml_values(config)[section]
    own = {key: value for key, value in keys.items() if key in list_fields((section,))}
    rest = {section: {key: value for key, value in keys.items() if key not in own}}
    assert getattr(extend_config(plain, {**own, **rest}, sections=[section]), section) == getattr(config, section)
    assert getattr(extend_config(plain, {section: keys}, sections=[section]), section) == getattr(config, section)


@pytest.mark.parametrize("section", SECTIONS)
def test_every_key_finds_its_section(section: str) -> None:
    for key in list_fields((section,)):
        assert place_options({key: None}, [section]) == {section: {key: None}}


def test_what_keywords_said_is_what_the_file_says(config: Config, tmp_path: Path) -> None:
    # All of a search at once, flat, where one section alone has the key, and else by its section.
    values: dict[str, Any] = {name: as_yaml_values(config)[name] for name in ("search", "evaluate", "merge")}
    fields = {name: set(list_fields((name,))) for name in values}
    flat = {
        key: value
        for name, keys in values.items()
        for key, value in keys.items()
        if key in fields[name] and sum(key in of_section for of_section in fields.values()) == 1
    }
    shared = {name: {key: value for key, value in keys.items() if key not in flat} for name, keys in values.items()}
    plain = aftermix.Pool("/m/base", as_yaml_values(config)["vectors"]).config
    said = extend_config(plain, {**flat, **shared}, sections=list(values))
    assert [getattr(said, name) for name in values] == [getattr(config, name) for name in values]
    said.write(tmp_path / "aftermix.yaml")
    assert aftermix.Config.read(tmp_path / "aftermix.yaml") == said


def test_lambda_is_called_scale() -> None:
    assert IN_FILE == {("merge", "scale"): "lambda"}
    pool = aftermix.Pool("/m/base", {"ja": "/m/ja"}, merge={"lambda": 0.5})
    assert pool.config.merge.scale == 0.5
    assert pool.merge({"ja": 1.0}, scale=0.25).config.merge.scale == 0.25
    assert pool.merge({"ja": 1.0}, **{"lambda": 0.75}).config.merge.scale == 0.75
    assert extend_config(pool.config, {"scale": 0.1}, sections=["search", "merge"]).merge.scale == 0.1
    aliases = [name for section in SECTIONS for name in list_fields((section,)) if not name.isidentifier()]
    assert aliases == []
