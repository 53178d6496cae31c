"""Intervals, paired differences, verdicts and tables of the studies; the store that a killed study goes on from."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from studies.obim.case import Measured
from studies.obim.claims import Claim, claims_of, claims_table, plainly, verdict
from studies.obim.recovery import Step, around, at_strength, between, by_density, strength_of
from studies.obim.results import Study, accuracy, bits, methods_table, minus, of_name, ranked, summary
from studies.obim.settings import SETTINGS, Rival, Setting, parts, rivals
from studies.world.bits import HeldOut, bits_per_byte
from studies.world.figures import Mean, difference, mean, table
from studies.world.lab import Scores
from studies.world.store import Store

BASE = Scores({"x": 2.0, "y": 4.0}, {"x": 40.0, "y": 60.0})
numbers = st.lists(st.floats(-1e3, 1e3), min_size=2, max_size=6)


def row(name: str, seed: int, x: float, y: float, *, share: float = 0.5, setting: str = "density 0.2") -> Measured:
    scores = Scores({"x": 2.0 * share, "y": 4.0 * share}, {"x": x, "y": y})
    return Measured(name, seed, setting, scores, BASE, ("x", "y"))


ROWS = [
    *(row("base", seed, 40, 60, share=1.0, setting="-") for seed in range(3)),
    *(row("OBIM", seed, 50 + seed, 60, share=0.5) for seed in range(3)),
    *(row("TIES", seed, 48 + seed, 60, share=0.6 + 0.1 * seed) for seed in range(3)),
]


def test_interval_over_three_seeds_is_students() -> None:
    found = mean([1.0, 2.0, 3.0])
    assert found.value == 2.0
    # t(0.975, 2) = 4.302653, standard deviation 1
    assert found.half == pytest.approx(4.302653 / math.sqrt(3), abs=1e-6)
    assert mean([5.0]) == Mean(5.0, None)
    assert not mean([5.0]).is_apart_from_zero


@given(numbers)
def test_interval_equals_scipys(values: list[float]) -> None:
    from scipy import stats

    array = np.array(values)
    found = mean(values)
    spread = array.std(ddof=1) / math.sqrt(len(values))
    low, high = found.value - (found.half or 0), found.value + (found.half or 0)
    expected = stats.t.interval(0.95, len(values) - 1, loc=array.mean(), scale=spread) if spread else [array.mean()] * 2
    assert (low, high) == pytest.approx(tuple(expected), abs=1e-6)


def test_paired_difference_is_narrower_than_the_seeds() -> None:
    found = difference([50.0, 60.0, 70.0], [49.0, 59.0, 69.0])
    assert (found.value, found.half) == (1.0, 0.0)
    assert found.is_apart_from_zero
    with pytest.raises(ValueError, match="zip"):
        difference([1.0], [1.0, 2.0])


def test_figures_of_a_method_are_by_seed() -> None:
    assert of_name(ROWS, "OBIM", accuracy) == [55.0, 55.5, 56.0]
    assert of_name(ROWS, "OBIM", bits) == [50.0, 50.0, 50.0]
    assert summary(ROWS, "base", bits) == Mean(100.0, 0.0)
    several = [row("own", 0, 40, 40), row("own", 0, 60, 60), row("own", 1, 70, 70)]
    assert of_name(several, "own", accuracy) == [50.0, 70.0]


def test_ranking_takes_most_accuracy_and_fewest_bits() -> None:
    assert ranked(ROWS, ["base", "TIES", "OBIM"], accuracy) == ["OBIM", "TIES", "base"]
    assert ranked(ROWS, ["base", "TIES", "OBIM"], bits) == ["OBIM", "TIES", "base"]
    assert minus(ROWS, "OBIM", "TIES", accuracy) == Mean(1.0, 0.0)
    assert minus(ROWS, "OBIM", "TIES", bits).value == pytest.approx(-20.0)


def test_table_shows_differences_domains_and_the_paper() -> None:
    shown = methods_table(ROWS, reference="OBIM", paper={"OBIM": 45.23})
    lines = shown.splitlines()
    assert lines[0].startswith("|  | accuracy % | bits, % of base | OBIM minus it: accuracy")
    assert lines[2].startswith("| base | 50.0 ± 0.0 | 100.00 ± 0.00 | +5.5 ± 1.2 | -50.00 ± 0.00 | 40.0 ± 0.0 | 60.0")
    assert lines[3].endswith("| density 0.2 | 45.23 |")
    assert table(["a"], []) == "| a |\n|---|"


def test_verdicts_follow_the_interval_and_the_direction() -> None:
    assert verdict(Mean(-1.0, 0.4), higher_is_better=False) == "yes"
    assert verdict(Mean(-1.0, 0.4), higher_is_better=True) == "reversed"
    assert verdict(Mean(-1.0, None), higher_is_better=True) == "within noise"


def test_claims_are_held_against_the_rows() -> None:
    claims = claims_of({"OBIM": 45.23, "TIES": 43.21, "absent": 1.0}, "OBIM")
    assert claims[0] == Claim("OBIM", "TIES", pytest.approx(2.02))
    lines = claims_table(ROWS, claims).splitlines()
    assert lines[2] == "| OBIM above TIES | +2.02 | +1.0 ± 0.0 | yes | -20.00 ± 24.84 | within noise |"
    assert len(lines) == 3
    assert (
        plainly(ROWS, claims) == "Of the paper's 1 comparisons, by accuracy: 1 yes; by bits per byte: 1 within noise."
    )


def test_results_read_back(tmp_path: Path) -> None:
    study = Study("methods", "python -m studies.obim.methods", "somewhere", {"experts": ROWS})
    study.write(tmp_path)
    assert Study.read(tmp_path, "methods") == study


@pytest.mark.parametrize("vectors", [2, 3, 6])
def test_every_method_has_as_many_settings_that_it_accepts(vectors: int) -> None:
    from aftermix.config import MergeConfig
    from aftermix.merging.methods import bind

    for rival in [*rivals(vectors), *parts(vectors)]:
        assert len(set(map(str, rival.settings))) == SETTINGS, rival.name
        for setting in rival.settings:
            bind(MergeConfig.model_validate(rival.merge(setting, seed=0)))


def test_a_setting_is_shown_with_its_weight() -> None:
    assert str(Setting({"density": 1 / 3, "lambda": 1.5})) == "density 0.33, lambda 1.5"
    assert str(Setting({}, 0.25)) == "weight 0.25"
    assert Rival("x", "ties", ()).merge(Setting({"density": 0.2}), seed=3) == {
        "method": "ties",
        "seed": 3,
        "density": 0.2,
    }


def test_equal_gain_is_found_along_the_coefficient() -> None:
    steps = [Step(0.0, 100.0, 100.0), Step(0.5, 90.0, 101.0), Step(1.0, 80.0, 105.0)]
    bracket = around(steps, 85.0)
    assert bracket == (steps[1], steps[2])
    assert between(bracket, 85.0) == Step(0.75, 85.0, 103.0)
    assert around(steps, 79.0) is None
    # A merge that has gone too far gains less again: the first crossing counts.
    assert around([*steps, Step(2.0, 95.0, 140.0)], 90.0) == (steps[0], steps[1])


def test_a_coefficient_is_a_weight_or_lambda() -> None:
    settings = [Setting({"density": d, "lambda": s}) for d in (0.2, 0.5) for s in (0.5, 1.0)]
    groups = by_density(settings)
    assert [[strength_of(setting) for setting in group] for group in groups] == [[0.5, 1.0], [0.5, 1.0]]
    assert at_strength(settings[3], 0.123456) == Setting({"density": 0.5, "lambda": 0.1235})
    assert at_strength(Setting({"lam": 0.2}, 0.5), 0.3) == Setting({"lam": 0.2}, 0.3)


def test_a_zero_has_no_sign_of_minus() -> None:
    assert Mean(-0.004, 0.1).shown(2, sign=True) == "+0.00 ± 0.10"
    assert Mean(-0.04, None).shown() == "0.0"


def test_store_measures_once_and_drops_a_torn_line(tmp_path: Path) -> None:
    path = tmp_path / "seed-0.jsonl"
    store = Store(path)
    assert store.get({"a": 1}, lambda: {"bits": 2.0})["bits"] == 2.0
    assert store.get({"a": 1}, lambda: {"bits": 3.0})["bits"] == 2.0
    store.get({"a": 2}, lambda: {"bits": 4.0})
    whole = path.read_bytes()
    path.write_bytes(whole[:-5])
    again = Store(path)
    assert [row["bits"] for row in again.rows.values()] == [2.0]
    again.get({"a": 2}, lambda: {"bits": 4.0})
    assert path.read_bytes() == whole
    path.write_bytes(b'{"key": "torn')
    assert Store(path).rows == {}
    assert path.read_bytes() == b""
    assert all(json.loads(line)["key"] for line in whole.splitlines())


class Bigram(torch.nn.Module):
    """Knows only the last token."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.table_VV = torch.randn(50, 50)

    def forward(self, input_ids: torch.Tensor, use_cache: bool) -> object:
        class Output:
            logits = self.table_VV[input_ids]

        return Output()


class Letters:
    """A token for each pair of letters."""

    eos_token_id = 0

    def __call__(self, texts: list[str], **_: object) -> dict[str, list[list[int]]]:
        return {"input_ids": [[1 + ord(text[at]) % 49 for at in range(0, len(text), 2)] for text in texts]}

    def convert_ids_to_tokens(self, ids: list[int]) -> list[str]:
        return ["xx"] * len(ids)


def test_bits_per_byte_equal_a_loop_over_tokens() -> None:
    texts, model, tokenizer = ["abcdefghijkl", "mn", "qrstuvwx" * 5], Bigram(), Letters()
    held_out = HeldOut.of(texts, tokenizer, context=5)
    nats = size = 0.0
    for row_ids in tokenizer(texts)["input_ids"]:
        for start in range(0, len(row_ids), 5):
            before = tokenizer.eos_token_id
            for token in row_ids[start : start + 5]:
                nats -= float(torch.log_softmax(model.table_VV[before].double(), -1)[token])
                size += 2
                before = token
    assert held_out.bytes == size
    assert bits_per_byte(model, held_out) == pytest.approx(nats / math.log(2) / size, rel=1e-6)
