"""`shares.json`: what every vector got, held against the written model and the positions that a slow walk gives."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner
from safetensors.torch import load_file

from aftermix.cli import cli
from aftermix.config import Config, MergeConfig, VectorConfig, as_yaml_values
from aftermix.jobs.merge.command import merge
from aftermix.merging.watchers.shares import find_kind
from aftermix.yaml_file import parse_yaml

Family = Mapping[str, Path]
UNSEEN = "model.layers.0.self_attn.q_proj.weight"


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


def config_of(family: Family, weights: Mapping[str, float], *, ratio: float | None = None, **options: Any) -> Config:
    vectors = {
        name: VectorConfig(model=str(family[name]), weight=weight, ratio=ratio if name == "a" else None)
        for name, weight in weights.items()
    }
    return Config(base=str(family["base"]), vectors=vectors, merge=MergeConfig.model_validate(options))


def shares_of(config: Config, output: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((merge(config, output) / "shares.json").read_text(encoding="utf-8"))
    return found


def stored(folder: Path) -> dict[str, torch.Tensor]:
    return {name: tensor for file in folder.glob("*.safetensors") for name, tensor in load_file(file).items()}


def test_counts_are_those_of_the_written_model(untied_family: Family, tmp_path: Path) -> None:
    config = config_of(untied_family, {"a": 1.0, "b": 0.0, "c": 1.0}, ratio=0.29, method="ties_im")
    record = shares_of(config, tmp_path / "out")
    models = {name: stored(folder) for name, folder in untied_family.items()} | {"out": stored(tmp_path / "out")}
    assert record["tensors"].keys() == models["out"].keys()
    for name, entry in record["tensors"].items():
        base, moved = models["base"][name], models["out"][name] != models["base"][name]
        near = {v: moved & torch.isclose(models["out"][name], models[v][name], rtol=0, atol=1e-7) for v in "ac"}
        assert entry["elements"] == base.numel()
        assert entry["counts"] == {"a": int(0.29 * base.numel() + 1e-9), "b": base.numel() // 3, "c": base.numel() // 3}
        # b has no weight: what it owns keeps the base's values, and does not go to another vector.
        assert [int(near[v].sum()) for v in "ac"] == [entry["counts"][v] for v in "ac"], name
        assert entry["rest"] == base.numel() - sum(entry["counts"].values())
        assert entry["shares"]["a"] == entry["counts"]["a"] / base.numel()
        assert "ranked_by" not in entry
    assert record["vectors"]["a"] == {"weight": 1.0, "ratio": 0.29}
    assert record["vectors"]["b"] == {"weight": 0.0, "ratio": 1 / 3}
    assert "fallback" not in record


def test_layers_and_kinds_are_sums_over_their_tensors(family: Family, tmp_path: Path) -> None:
    config = config_of(family, {"a": 1.0, "b": 1.0}, ratio=0.3, method="ties_im", exclude=("norm",))
    record = shares_of(config, tmp_path / "out")
    assert [layer["block"] for layer in record["layers"]] == ["model.layers.0", "model.layers.1", None]
    for key, belongs in (
        ("layers", lambda name, row: name.startswith(row["block"] or "model.embed_tokens")),
        ("kinds", lambda name, row: find_kind(name) == row["kind"]),
    ):
        for row in record[key]:
            members = [entry for name, entry in record["tensors"].items() if belongs(name, row)]
            assert row["elements"] == sum(entry["elements"] for entry in members)
            assert row["rest"] == sum(entry["rest"] for entry in members)
            for vector in "ab":
                assert row["counts"][vector] == sum(entry["counts"][vector] for entry in members)
                assert row["shares"][vector] == row["counts"][vector] / row["elements"]
    assert record["total"]["elements"] == sum(layer["elements"] for layer in record["layers"])
    assert [name for name in record["unmoved"] if "layers.1" in name] == [
        "model.layers.1.input_layernorm.weight",
        "model.layers.1.post_attention_layernorm.weight",
    ]
    # The tied head is the embedding: it is counted once.
    assert "lm_head.weight" not in record["tensors"]


def test_the_record_does_not_depend_on_blocks_or_threads(
    family: Family, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = config_of(family, {"a": 1.0, "b": 0.5}, ratio=0.31, method="ties_im")
    first = shares_of(config, tmp_path / "one")
    monkeypatch.setattr(torch, "get_num_threads", lambda: 3)
    assert shares_of(config, tmp_path / "three") == first


@pytest.mark.parametrize(
    ("options", "share"),
    [
        ({"method": "ties", "density": 0.25}, 0.25),
        ({"intra": {"rule": "magnitude", "density": 0.5}, "inter": "sum"}, 0.5),
        ({"method": "dare_linear", "density": 0.5}, None),
    ],
)
def test_other_rules_say_what_each_vector_keeps(
    options: dict[str, Any], share: float | None, untied_family: Family, tmp_path: Path
) -> None:
    record = shares_of(config_of(untied_family, {"a": 1.0, "b": 0.5, "c": 0.0}, **options), tmp_path / "out")
    assert record["exclusive"] is False
    for entry in record["tensors"].values():
        assert entry["counts"]["c"] == 0  # it has no weight, so nothing was asked of it
        assert "rest" not in entry  # two vectors may keep the same position
        if share is not None:
            assert [entry["counts"][v] for v in "ab"] == [int(share * entry["elements"])] * 2
    assert 0.24 < record["total"]["shares"]["a"] < 0.51


@pytest.mark.parametrize("options", [{}, {"method": "dare_linear"}, {"method": "linear"}, {"method": "tall_mask"}])
def test_a_rule_that_drops_nothing_has_no_shares(options: dict[str, Any], family: Family, tmp_path: Path) -> None:
    merge(config_of(family, {"a": 1.0, "b": 0.5}, **options), tmp_path / "out")
    assert not (tmp_path / "out" / "shares.json").exists()


def test_the_record_says_what_ranked_each_tensor(
    untied_family: Family, statistics: dict[str, Path], tmp_path: Path
) -> None:
    folder = str(statistics[str(untied_family["base"])])
    record = shares_of(
        config_of(untied_family, {"a": 1.0, "b": 1.0}, method="obim", statistics=folder), tmp_path / "out"
    )
    ranked = {name: entry["ranked_by"] for name, entry in record["tensors"].items()}
    assert ranked[UNSEEN] == {"a": "magnitude", "b": "magnitude"}
    assert ranked["model.layers.1.self_attn.q_proj.weight"] == {"a": "saliency", "b": "saliency"}
    assert ranked["model.embed_tokens.weight"] == {"a": "random", "b": "random"}
    assert record["fallback"] == {"without_statistics": [], "without_tokens": {"a": [UNSEEN], "b": [UNSEEN]}}


def test_the_console_tells_what_fell_back(untied_family: Family, statistics: dict[str, Path], tmp_path: Path) -> None:
    import yaml

    folder = tmp_path / "statistics"
    folder.mkdir()
    for path in statistics[str(untied_family["base"])].glob("[ab].*"):
        (folder / path.name).write_bytes(path.read_bytes())
    weights = {"a": 1.0, "b": 1.0, "c": 1.0}
    config = config_of(untied_family, weights, method="obim", statistics=str(folder), uncalibrated="magnitude")
    (tmp_path / "m.yaml").write_text(yaml.safe_dump(as_yaml_values(config)))
    result = CliRunner().invoke(cli, ["merge", str(tmp_path / "m.yaml"), "-o", str(tmp_path / "out"), "--check"])
    assert result.exit_code == 0, result.output
    assert result.stdout.splitlines() == [
        "Ranked by magnitude, without statistics: c",
        f"Ranked by magnitude, since their layers saw no token: 2 weights: {UNSEEN} (a), {UNSEEN} (b)",
        "Checked: 21 tensors, 36,000 positions, none from two vectors",
        f"Model: {tmp_path / 'out'}",
    ]
    record = json.loads((tmp_path / "out" / "shares.json").read_text())
    assert record["fallback"]["without_statistics"] == ["c"]
    assert {entry["ranked_by"]["c"] for entry in record["tensors"].values()} == {"magnitude"}
    recipe = parse_yaml((tmp_path / "out" / "aftermix.yaml").read_text(), where="recipe")
    assert recipe["merge"]["uncalibrated"] == "magnitude"
    lock = json.loads((tmp_path / "out" / "lock.json").read_text())
    assert sorted(lock["statistics"]) == ["a.json", "a.safetensors", "b.json", "b.safetensors"]


def test_without_any_statistics_magnitude_gives_what_ties_im_gives(untied_family: Family, tmp_path: Path) -> None:
    weights = {"a": 1.0, "b": 0.5}
    salient = config_of(untied_family, weights, method="obim", uncalibrated="magnitude")
    first = merge(salient, tmp_path / "obim")
    other = merge(config_of(untied_family, weights, method="ties_im"), tmp_path / "ties_im")
    assert (first / "model.safetensors").read_bytes() == (other / "model.safetensors").read_bytes()
    record = json.loads((first / "shares.json").read_text())
    assert record["fallback"]["without_statistics"] == ["a", "b"]
    from aftermix.config import load_config

    again = merge(load_config(first / "aftermix.yaml"), tmp_path / "again")
    assert (first / "model.safetensors").read_bytes() == (again / "model.safetensors").read_bytes()
