"""Losses around the base, held against merges that are really made; interference, held against plain loops."""

from __future__ import annotations

import json
from collections.abc import Mapping
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from torch.nn.functional import cross_entropy
from transformers import AutoModelForCausalLM, AutoTokenizer

from aftermix.analysis.robustness.forecast import GRID, LINE, OffsetDraw, draw_offsets, measure_robustness
from aftermix.analysis.robustness.interference import LARGEST, measure_interference
from aftermix.checkpoints.model import read_tensor
from aftermix.checkpoints.pool import open_pool
from aftermix.config import Config, MergeConfig, VectorConfig, load_config
from aftermix.errors import AftermixError
from aftermix.jobs.analysis.robustness import analyze_robustness
from aftermix.jobs.merge.command import merge
from conftest import run_cli

TEXT = "the sum of the numbers is even and the answer is one of these"
WORDS = TEXT.split()


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


class Bowl:
    """Losses `|x - target|^2` of each domain in the plane of two coefficients, a draw adding its factor squared."""

    targets = {"a": (0.8, 0.1), "b": (-0.2, 0.5)}  # noqa: RUF012 - of the class

    def probe_loss(self, domain: str, weights: Mapping[str, float], draw: OffsetDraw | None = None) -> float:
        point = np.array([weights.get("a", 0.0), weights.get("b", 0.0)])
        return float(np.sum((point - self.targets[domain]) ** 2)) + (draw.factor**2 if draw else 0.0)


def test_the_losses_are_asked_for_where_they_are_said_to_be() -> None:
    found = measure_robustness(Bowl(), ["a", "b"], scales={"a": 1.0, "b": 2.0}, seed=3)
    assert found.line_KCK.shape == (2, 13, 2)
    assert (LINE[0], LINE[-1], GRID[0], GRID[-1]) == (0.0, 1.2, 0.0, 1.2)
    for place, c in enumerate(LINE):
        assert found.line_KCK[0, place].tolist() == pytest.approx(
            [(c - 0.8) ** 2 + 0.01, (c + 0.2) ** 2 + 0.25], abs=1e-12
        )
    assert (found.find_best(0), found.find_best(1)) == (0.8, 0.5)
    assert found.compute_gain(0) == pytest.approx(0.64 - 0.04)
    assert found.compute_cost_elsewhere(0) == pytest.approx(1.2**2 - 0.2**2)
    joint_CC = found.pairs["a", "b"]
    assert joint_CC[2, 1] == pytest.approx((0.6 - 0.8) ** 2 + (0.3 - 0.1) ** 2 + (0.6 + 0.2) ** 2 + (0.3 - 0.5) ** 2)
    assert found.compute_rises(1).tolist() == pytest.approx([draw.factor**2 for draw in found.draws])
    assert found.scales_K.tolist() == [1.0, 2.0]


def test_draws_are_those_of_the_paper() -> None:
    draws = draw_offsets(seed=0, count=600)
    assert {draw.weight for draw in draws} == {0.1, 0.2, 0.3, 0.4, 0.5, 0.6}
    assert {draw.experts for draw in draws} == set(range(1, 8))
    assert OffsetDraw(0, 0.5, 4).factor == 1.0
    assert draw_offsets(seed=0)[:3] == draws[:3]
    assert draw_offsets(seed=1, count=600) != draws


def test_interference_by_plain_loops(family: dict[str, Path]) -> None:
    names = ("a", "b", "c")
    pool = open_pool(Config(base=str(family["base"]), vectors={n: VectorConfig(model=str(family[n])) for n in names}))
    found = measure_interference(pool)
    tensors = [info.name for info in pool.layout if info.mergeable and info.name not in pool.frame.alias]
    vectors = {
        n: [read_tensor(pool.experts[n], t).double() - read_tensor(pool.frame, t).double() for t in tensors]
        for n in names
    }
    signs = {n: np.sign(np.concatenate([part.flatten().numpy() for part in parts])) for n, parts in vectors.items()}
    moved = np.stack([signs[n] != 0 for n in names]).sum(0)
    clean = [len({s for n in names if (s := signs[n][at])}) == 1 for at in range(len(moved)) if moved[at] > 1]
    assert found.without_conflict == np.mean(clean)
    assert found.entries == len(moved)

    for one, other in combinations(range(3), 2):
        a, b = names[one], names[other]
        both = (signs[a] != 0) & (signs[b] != 0)
        assert (
            found.agreeing_VV[one, other] == found.agreeing_VV[other, one] == np.mean(signs[a][both] == signs[b][both])
        )
        common = kept = 0
        for x, y in zip(vectors[a], vectors[b], strict=True):
            count = max(1, round(LARGEST * x.numel()))
            largest = [set(v.abs().flatten().topk(count).indices.tolist()) if v.any() else set() for v in (x, y)]
            common, kept = common + len(largest[0] & largest[1]), kept + len(largest[0])
        assert found.overlap_VV[one, other] == pytest.approx(common / kept, abs=2e-3)  # equal magnitudes may differ


def write_job(folder: Path, family: dict[str, Path], **own: dict[str, Any]) -> Path:
    vectors = {}
    for place, name in enumerate(("a", "b")):
        rows = [" ".join(WORDS[(n + step * (place + 1)) % 13] for step in range(9)) for n in range(4)]
        (folder / f"{name}.jsonl").write_text("".join(json.dumps({"text": row}) + "\n" for row in rows))
        vectors[name] = {"model": str(family[name]), "calibration": f"{name}.jsonl"} | own.get(name, {})
        vectors[name] = {key: value for key, value in vectors[name].items() if value is not None}
    file = folder / "file.yaml"
    calibrate = {"samples": 4, "batch_size": 2, "long_texts": "cut", "threads": 1}
    file.write_text(yaml.safe_dump({"base": str(family["base"]), "vectors": vectors, "calibrate": calibrate}))
    return file


def average_loss(model: Path, texts: Path) -> float:
    """Mean loss of a token by transformers' own model, document by document."""
    live, tokenizer = (
        AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32),
        AutoTokenizer.from_pretrained(model),
    )
    total, count = 0.0, 0
    for line in texts.read_text().splitlines():
        ids = torch.tensor([tokenizer(json.loads(line)["text"])["input_ids"]])
        with torch.no_grad():
            logits = live(ids).logits[0, :-1]
        total += float(cross_entropy(logits, ids[0, 1:], reduction="sum"))
        count += ids.shape[1] - 1
    return total / count


def test_losses_are_those_of_merged_models(tmp_path: Path, family: dict[str, Path]) -> None:
    file, out = write_job(tmp_path, family), tmp_path / "out.json"
    findings, label = analyze_robustness(load_config(file), json=out)
    assert label == str(family["base"])
    record = json.loads(out.read_text())
    assert record["coefficients"] == list(LINE)
    for weights, told in (
        ({"a": 0.6}, record["vectors"]["a"]["losses"]["b"][6]),
        ({"a": 0.9, "b": 0.3}, None),
    ):
        vectors = {name: VectorConfig(model=str(family[name]), weight=weight) for name, weight in weights.items()}
        config = Config(base=str(family["base"]), vectors=vectors, merge=MergeConfig(dtype="float32"))
        folder = merge(config, tmp_path / "-".join(weights))
        losses = {name: average_loss(folder, tmp_path / f"{name}.jsonl") for name in ("a", "b")}
        if told is not None:
            assert told == pytest.approx(losses["b"], abs=2e-5)
        else:
            assert record["pairs"]["a,b"]["losses"][3][1] == pytest.approx(sum(losses.values()), abs=4e-5)

    told = record["vectors"]["a"]
    assert told["gain"] == pytest.approx(told["losses"]["a"][0] - told["losses"]["a"][10])
    assert told["mean_rise"] == pytest.approx(np.mean(told["rises"]))
    assert told["worst_rise"] == max(told["rises"])
    assert len(set(told["rises"])) == len(record["draws"]) == 8
    assert set(record["layer_cosines"]) == set(findings.geometry.layers)
    assert 0 <= record["interference"]["without_conflict"] <= 1

    again = tmp_path / "again.json"
    assert run_cli("analyze", file, "--robustness", "--json", again, "--picture", tmp_path / "picture.svg") == 0
    assert again.read_bytes() == out.read_bytes()
    picture = (tmp_path / "picture.svg").read_text()
    assert "joint loss minus the base" in picture
    assert "Cosine between vectors, by layer" in picture


def test_refusals(tmp_path: Path, family: dict[str, Path], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(AftermixError, match=r"b.calibration: missing, but robustness is that of the loss on its text"):
        analyze_robustness(load_config(write_job(tmp_path, family, b={"calibration": None})))
    assert run_cli("analyze", write_job(tmp_path, family), "--robustness", "--curvature") == 2
    assert "two analyses" in capsys.readouterr().err
