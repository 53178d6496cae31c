"""The unit of each trainer, held against a small reading of what its documentation says it does with the numbers.

tests/parity/test_export_consumers.py feeds the same files to the trainers themselves, where they are installed.
"""

from __future__ import annotations

import json
import random
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from aftermix.errors import AftermixError
from aftermix.mixture.exports.axolotl import PLAIN_ANSWER, check_axolotl, keep_fraction, write_axolotl
from aftermix.mixture.exports.domain_data import DomainData, count_domain
from aftermix.mixture.exports.epoch_caps import allot
from aftermix.mixture.exports.interleave import interleave
from aftermix.mixture.exports.llamafactory import write_llamafactory
from aftermix.mixture.exports.megatron import write_megatron
from aftermix.mixture.exports.plan import DomainFiles, ExportDomain, MixturePlan
from aftermix.mixture.exports.streaming import write_streaming
from aftermix.mixture.exports.trl import write_trl

RATIOS = {"ja": 0.25, "math": 0.6, "code": 0.15}
LENGTHS = {"ja": (5, 9, 800), "math": (40, 90, 500), "code": (12, 30, 900)}


def lengths_of(name: str) -> list[int]:
    """Tokens of each example; those of code grow."""
    low, high, count = LENGTHS[name]
    draws = random.Random(name)
    found = [draws.randint(low, high) for _ in range(count)]
    return sorted(found) if name == "code" else found


def made_plan(tokens: int, *, form: str = "text", **options: Any) -> MixturePlan:
    data: dict[str, DomainData] = {name: count_domain(lengths_of(name), where=name) for name in RATIOS}
    given = allot(RATIOS, data, budget_tokens=tokens, max_epochs=4)
    domains = tuple(
        ExportDomain(name, (f"/data/{name}.jsonl",), "json", form, "text", data[name], given[name]) for name in RATIOS
    )
    return MixturePlan(domains, tokens, "/out", **options)


def shares(tokens: dict[str, float]) -> dict[str, float]:
    return {name: count / sum(tokens.values()) for name, count in tokens.items()}


def values(files: Any, name: str) -> Any:
    return yaml.safe_load(files[name])


def test_megatron_blends_samples_of_one_length_by_weight() -> None:
    words = write_megatron(made_plan(30_000))["data_args.txt"].split()
    weights = {
        path.removesuffix("_text_document"): float(word) for word, path in zip(words[::2], words[1::2], strict=True)
    }
    drawn: Counter[str] = Counter()
    for sample in range(1, 2001):  # the data set that is furthest behind its weight gives the next sample
        drawn[max(weights, key=lambda name: weights[name] / 100 * sample - drawn[name])] += 1
    assert shares(dict(drawn)) == pytest.approx(RATIOS, rel=0.01)


def test_streams_of_examples_are_shared_by_examples_and_of_sequences_by_tokens() -> None:
    plan = made_plan(20_000)
    found = values(write_streaming(plan), "streams.yaml")
    mean = {domain.name: domain.data.mean_tokens for domain in plan.domains}
    tokens = {name: found["epoch_size"] * s["proportion"] * mean[name] for name, s in found["streams"].items()}
    assert shares(tokens) == pytest.approx(RATIOS)
    assert sum(tokens.values()) == pytest.approx(20_000, rel=0.001)
    cut = values(write_streaming(made_plan(20_480, sequence_tokens=512, root="s3")), "streams.yaml")
    assert cut["epoch_size"] == 40
    assert {name: s["proportion"] for name, s in cut["streams"].items()} == pytest.approx(RATIOS)
    assert cut["streams"]["ja"] == {"local": "s3/ja", "proportion": 0.25}


def test_trl_takes_the_first_rows_of_the_largest_mixture_without_a_repeat() -> None:
    found = values(write_trl(made_plan(40_000)), "mixture.yaml")
    rows = {name: lengths_of(name) for name in RATIOS}
    weights = {Path(entry["data_files"][0]).stem: entry["fraction"] for entry in found["datasets"]}
    total = min(len(rows[name]) / weight for name, weight in weights.items())
    tokens = {name: float(sum(rows[name][: round(weights[name] * total)])) for name in RATIOS}
    assert shares(tokens) == pytest.approx(RATIOS, rel=0.01)
    assert sum(tokens.values()) * found["num_train_epochs"] == pytest.approx(40_000, rel=0.01)


def test_axolotl_keeps_a_fraction_of_the_examples() -> None:
    plan = made_plan(15_000)
    found = values(write_axolotl(plan), "mixture.yaml")["datasets"]
    kept = {Path(entry["path"]).stem: int(LENGTHS[Path(entry["path"]).stem][2] * entry["weight"]) for entry in found}
    tokens = {domain.name: kept[domain.name] * domain.data.mean_tokens for domain in plan.domains}
    assert shares(tokens) == pytest.approx(RATIOS, rel=0.01)
    assert sum(tokens.values()) == pytest.approx(15_000, rel=0.01)
    assert all(0 < entry["weight"] <= 1 and entry["type"] == "completion" for entry in found)


@given(st.integers(1, 10_000), st.data())
def test_every_number_of_examples_has_a_weight(held: int, data: st.DataObject) -> None:
    examples = data.draw(st.integers(1, held))
    assert int(held * keep_fraction(examples, held)) == examples
    assert 0 < keep_fraction(examples, held) <= 1


def test_llamafactory_draws_examples_and_takes_a_number_of_them() -> None:
    plan = made_plan(20_000)
    files = write_llamafactory(plan)
    keys, info = values(files, "mixture.yaml"), json.loads(files["dataset_info.json"])
    assert isinstance(keys["interleave_probs"], str)
    drawn = dict(zip(keys["dataset"].split(","), map(float, keys["interleave_probs"].split(",")), strict=True))
    for domain in plan.domains:
        assert info[domain.name]["num_samples"] == round(domain.given.examples)
    tokens = {domain.name: drawn[domain.name] * domain.data.mean_tokens for domain in plan.domains}
    assert shares(tokens) == pytest.approx(RATIOS)
    assert keys["stage"] == "pt"


@pytest.mark.parametrize(
    ("form", "columns", "kind"),
    [
        ("chat", {"messages": "messages"}, "chat_template"),
        ("completion", {"prompt": "prompt", "response": "completion"}, PLAIN_ANSWER),
    ],
)
def test_answers_are_another_stage_with_other_columns(form: str, columns: dict[str, str], kind: object) -> None:
    plan = made_plan(10_000, form=form)
    files = write_llamafactory(plan)
    assert values(files, "mixture.yaml")["stage"] == "sft"
    assert json.loads(files["dataset_info.json"])["ja"]["columns"] == columns
    assert values(write_axolotl(plan), "mixture.yaml")["datasets"][0]["type"] == kind
    taken = values(write_trl(plan), "mixture.yaml")
    assert taken["datasets"][0]["columns"] == list(columns.values())
    assert "dataset_text_field" not in taken


def test_one_saved_dataset_a_domain_for_axolotl() -> None:
    one = DomainFiles("ja", ("/d/a",), "saved", "text", "text")
    check_axolotl([one])
    with pytest.raises(AftermixError, match="axolotl reads one saved dataset, found 2"):
        check_axolotl([DomainFiles("ja", ("/d/a", "/d/b"), "saved", "text", "text")])


def test_interleave_reads_every_kind_of_data(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    rows = {"content": [f"math {number}" for number in range(30)]}
    datasets.Dataset.from_dict(rows).save_to_disk(tmp_path / "saved")
    datasets.Dataset.from_dict(rows).to_parquet(tmp_path / "rows.parquet")
    (tmp_path / "note.txt").write_text("line one\nline two")
    kinds = {"ja": ("saved", "saved"), "math": ("parquet", "rows.parquet"), "code": ("text", "note.txt")}
    plan = made_plan(5_000)
    domains = tuple(
        ExportDomain(d.name, (str(tmp_path / kinds[d.name][1]),), kinds[d.name][0], "text", "content", d.data, d.given)
        for d in plan.domains
    )
    code = interleave(MixturePlan(domains, 5_000, "/out"))["mixture.py"]
    names: dict[str, Any] = {}
    exec(compile(code, "mixture.py", "exec"), names)  # noqa: S102 - what we wrote
    found = Counter(row["text"] for row in names["mixture"]())
    assert found.total() == plan.examples
    assert found["line one\nline two"] > 1
    assert len(found) == 31
