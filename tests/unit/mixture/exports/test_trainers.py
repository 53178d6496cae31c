"""Units of Megatron-Bridge, OLMo-core and ms-swift: files held against slow readings of the rules of their readers.

tests/parity/test_export_consumers.py feeds the same files to the trainers themselves, where they are installed.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from dataclasses import replace as changed
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from aftermix.errors import AftermixError
from aftermix.mixture.exports.domain_data import MESSAGE_KEY, SYSTEM_COLUMN, SYSTEM_GAP, TOOLS, count_domain
from aftermix.mixture.exports.epoch_caps import allot
from aftermix.mixture.exports.plan import DomainFiles, ExportDomain, MixturePlan, join_root
from aftermix.mixture.exports.trainers.megatron_bridge import write_megatron_bridge
from aftermix.mixture.exports.trainers.ms_swift import check_ms_swift, map_columns, write_ms_swift
from aftermix.mixture.exports.trainers.olmo_core import limit_repetition, write_olmo_core

RATIOS = {"ja": 0.25, "math": 0.6, "code": 0.15}
HELD = {"ja": [7] * 400, "math": [60, 70] * 300, "code": list(range(12, 30)) * 30}


def made_plan(
    tokens: int, *, form: str = "text", traits: Mapping[str, str] | None = None, **options: Any
) -> MixturePlan:
    data = {name: count_domain(HELD[name], where=name) for name in RATIOS}
    data = {name: changed(found, traits=traits or {}) for name, found in data.items()}
    given = allot(RATIOS, data, budget_tokens=tokens, max_epochs=9)
    domains = tuple(
        ExportDomain(name, (f"/data/{name}.jsonl",), "json", form, "text", data[name], given[name]) for name in RATIOS
    )
    return MixturePlan(domains, tokens, "/out", **options)


def shares(counts: Mapping[str, float]) -> dict[str, float]:
    return {name: count / sum(counts.values()) for name, count in counts.items()}


def refused(run: Any, *values: Any) -> str:
    with pytest.raises(AftermixError) as error:
        run(*values)
    return str(error.value)


# Megatron-Bridge


def blend_samples(weights: list[float], size: int) -> list[int]:
    """Megatron's blend: the data set furthest behind its weight gives the next sample; a weight of 0 is asserted."""
    assert all(weight > 0 for weight in weights)
    total, drawn = sum(weights), [0] * len(weights)
    for sample in range(1, size + 1):
        drawn[max(range(len(weights)), key=lambda at: weights[at] / total * sample - drawn[at])] += 1
    return drawn


def test_a_bridge_blend_is_of_samples_of_one_length_in_the_ratios_of_tokens() -> None:
    text = write_megatron_bridge(made_plan(20_480, root="./bin", sequence_tokens=512))["mixture.yaml"]
    dataset = yaml.safe_load(text)["dataset"]
    prefixes, weights = dataset["blend"]
    assert prefixes == [f"bin/{name}_text_document" for name in RATIOS]
    assert weights == [25.0, 60.0, 15.0]
    drawn = dict(zip(RATIOS, blend_samples(weights, 2000), strict=True))
    assert shares(drawn) == pytest.approx(RATIOS, abs=0.001)
    assert list(dataset) == ["blend", "seq_length"]
    assert dataset["seq_length"] == 512
    assert "# The budget is 40 samples: train.train_iters = 40 / train.global_batch_size." in text


def test_a_bridge_blend_is_a_list_so_that_white_space_is_no_matter() -> None:
    found = yaml.safe_load(write_megatron_bridge(made_plan(5000, root="my data"))["mixture.yaml"])
    assert found == {"dataset": {"blend": [[f"my data/{name}_text_document" for name in RATIOS], [25.0, 60.0, 15.0]]}}


# OLMo-core


@dataclass(frozen=True)
class FixedSequences:
    """OLMo-core's rule for one file a source (`olmo_core/data/source_mixture.py`, 3.0), read out slowly."""

    held: Mapping[str, int]
    length: int
    batch: int

    def count(self, sources: list[dict[str, Any]], requested: int) -> dict[str, int]:
        """Tokens of each source in the mixture. Raises `ValueError` where the reader ends with an error."""
        if not math.isclose(sum(source["target_ratio"] for source in sources), 1, rel_tol=1e-5):
            raise ValueError("the ratios do not add up to 1")
        pieces = [piece for source in sources for piece in self._cut(source, requested)]

        # Whole sequences first; what is left of the last batch goes evenly to files that have more to give.
        taken = [min(tokens // self.length, most // self.length) for _, tokens, most in pieces]
        wanted = math.ceil(requested / self.batch) * (self.batch // self.length)
        rests = [tokens % self.length for _, tokens, _ in pieces]
        open_ = [at for at, (_, _, most) in enumerate(pieces) if taken[at] < most // self.length]
        if open_ and wanted > sum(taken):
            each = (wanted - sum(taken)) // len(open_)
            for at in open_:
                taken[at] += min(each, pieces[at][2] // self.length - taken[at])
            open_ = [at for at in open_ if taken[at] < pieces[at][2] // self.length]
            for at in sorted(open_, key=lambda at: (rests[at], at), reverse=True)[: max(wanted - sum(taken), 0)]:
                taken[at] += 1

        found: Counter[str] = Counter()
        for (name, _, _), count in zip(pieces, taken, strict=True):
            found[name] += count * self.length
        return dict(found)

    def _cut(self, source: dict[str, Any], requested: int) -> list[tuple[str, int, int]]:
        name, held = source["source_name"], self.held[source["source_name"]]
        needed = int(requested * source["target_ratio"])
        if source["max_repetition_ratio"] < 1 or int(held * source["max_repetition_ratio"]) < needed:
            raise ValueError(f"{name} has too few tokens")
        whole, rest = divmod(needed / held, 1)
        return [(name, held, held)] * int(whole) + [(name, math.ceil(held * rest), held)]


def read_sources(plan: MixturePlan) -> list[dict[str, Any]]:
    sources: list[dict[str, Any]] = yaml.safe_load(write_olmo_core(plan)["sources.yaml"])["sources"]
    return sources


def tokens_held() -> dict[str, int]:
    return {name: sum(lengths) for name, lengths in HELD.items()}


@pytest.mark.parametrize("budget", [8192, 65536])
def test_olmo_core_gives_the_ratios_below_and_beyond_one_epoch(budget: int) -> None:
    plan = made_plan(budget)
    sources = read_sources(plan)
    assert [(s["source_name"], s["target_ratio"], s["paths"]) for s in sources] == [
        (name, ratio, [f"{name}/*.npy"]) for name, ratio in RATIOS.items()
    ]
    tokens = FixedSequences(tokens_held(), length=16, batch=256).count(sources, budget)
    assert shares(tokens) == pytest.approx(RATIOS, abs=0.002 if budget < 10_000 else 0.005)
    assert sum(tokens.values()) == budget


def test_olmo_core_repeats_no_more_than_the_file_lets_it() -> None:
    plan = made_plan(22_400)
    ja = read_sources(plan)[0]
    assert plan.domains[0].given.epochs == 2.0
    assert ja["max_repetition_ratio"] == 2.02
    reader = FixedSequences(tokens_held(), length=16, batch=256)
    reader.count(read_sources(plan), 22_400)
    with pytest.raises(ValueError, match="ja has too few tokens"):
        reader.count([{**source, "max_repetition_ratio": 1.0} for source in read_sources(plan)], 22_400)
    # Files that hold a token less an example, as without a start, are not refused for it.
    less = {name: tokens - tokens // 150 for name, tokens in tokens_held().items()}
    FixedSequences(less, length=16, batch=256).count(read_sources(plan), 22_400)


def test_a_source_without_a_share_would_be_given_sequences_when_a_batch_is_filled() -> None:
    """The reason why domains without a share are left out, and why the budget is told in whole batches."""
    sources = [*read_sources(made_plan(8192)), {"source_name": "old", "target_ratio": 0.0, "max_repetition_ratio": 1.0}]
    held = {**tokens_held(), "old": 4096}
    assert FixedSequences(held, length=16, batch=512).count(sources, 8192)["old"] <= 16
    assert FixedSequences(held, length=16, batch=5120).count(sources, 8192)["old"] > 300
    text = write_olmo_core(made_plan(8192, sequence_tokens=16))["sources.yaml"]
    assert "#     requested_tokens=8192 // BATCH * BATCH, global_batch_size=BATCH)\n" in text
    assert "# Sequences are of 16 tokens; a shorter file gives nothing.\n" in text


def test_roots_and_names_that_olmo_core_takes_for_patterns() -> None:
    assert "--root: OLMo-core takes '*' of 'a*' for a pattern" in refused(write_olmo_core, made_plan(999, root="a*"))
    plan = made_plan(999)
    star = changed(plan, domains=(changed(plan.domains[0], name="ja*"), *plan.domains[1:]))
    assert "mixture.\"ja*\": OLMo-core takes '*' of the name for a pattern" in refused(write_olmo_core, star)


@pytest.mark.parametrize(
    ("root", "path"),
    [
        (".", "ja/*.npy"),
        ("./a/../b/", "a/../b/ja/*.npy"),
        ("gs://b/c/", "gs://b/c/ja/*.npy"),
        ("/x//y", "/x/y/ja/*.npy"),
    ],
)
def test_paths_are_plain_since_a_leading_dot_matches_no_file_there(root: str, path: str) -> None:
    assert join_root(root, "ja", "*.npy") == path
    assert read_sources(made_plan(999, root=root))[0]["paths"] == [path]


def test_no_repetition_below_one_epoch() -> None:
    assert [limit_repetition(epochs) for epochs in (0.0, 1.0, 1.5, 4.0)] == [1.01, 1.01, 1.515, 4.04]


# ms-swift


def sample_examples(held: int, count: int, draws: np.random.Generator) -> list[int]:
    """ms-swift's `#COUNT`: all examples as often as the count holds them, and a random choice for the rest."""
    assert count > 0
    return [*(list(range(held)) * (count // held)), *draws.permutation(held)[: count % held].tolist()]


@pytest.mark.parametrize("budget", [9_000, 40_000])
def test_ms_swift_takes_a_number_of_examples_of_each_file(budget: int) -> None:
    keys = yaml.safe_load(write_ms_swift(made_plan(budget))["mixture.yaml"])
    tokens: dict[str, float] = {}
    for name, entry in zip(RATIOS, keys["dataset"], strict=True):
        path, _, count = entry.rpartition("#")
        assert path == f"/data/{name}.jsonl"
        taken = sample_examples(len(HELD[name]), int(count), np.random.default_rng(1))
        tokens[name] = sum(HELD[name][at] for at in taken)
    assert shares(tokens) == pytest.approx(RATIOS, abs=0.01)
    assert sum(tokens.values()) == pytest.approx(budget, rel=0.02)
    assert "interleave_prob" not in keys
    assert [keys[name] for name in ("num_train_epochs", "streaming", "strict", "split_dataset_ratio")] == [
        *(1, False, True, 0.0)
    ]
    assert keys["custom_dataset_info"] == ["/out/dataset_info.json"]


def rename(columns: Mapping[str, str], held: tuple[str, ...]) -> dict[str, str]:
    """ms-swift's names of the columns a file has: by the map, without regard to case; what it knows not, it drops."""
    lower = {name.lower(): new for name, new in columns.items()}
    return {name: lower.get(name.lower(), name) for name in held}


def test_columns_that_ms_swift_would_read_as_well_are_put_aside() -> None:
    text, pairs, chats = (made_plan(5000, form=form).domains[0] for form in ("text", "completion", "chat"))
    named = rename(map_columns(text), ("text", "query", "System", "tools", "messages", "id"))
    assert named == {
        "text": "response",
        "query": "aside_query",
        "System": "aside_system",
        "tools": "aside_tools",
        "messages": "aside_messages",
        "id": "id",
    }
    assert rename(map_columns(pairs), ("prompt", "completion", "input", "history")) == {
        "prompt": "query",
        "completion": "response",
        "input": "aside_input",
        "history": "aside_history",
    }
    assert rename(map_columns(chats), ("messages", "tools", "label")) == {
        "messages": "messages",
        "tools": "aside_tools",
        "label": "aside_label",
    }
    # The text itself may stand under a name that ms-swift reads as something else.
    odd = changed(text, text_field="Query")
    assert rename(map_columns(odd), ("Query", "response")) == {"Query": "response", "response": "aside_response"}


def test_each_file_has_its_own_columns_and_a_plain_path(tmp_path: Path) -> None:
    plan = made_plan(5000)
    (tmp_path / "a").mkdir()
    path = tmp_path / "a" / ".." / "ja.jsonl"
    moved = changed(plan.domains[0], parts=(str(path),), text_field="body")
    files = write_ms_swift(changed(plan, domains=(moved, *plan.domains[1:])))
    info = json.loads(files["dataset_info.json"])
    assert [entry["dataset_path"] for entry in info] == [
        *(str(tmp_path / "ja.jsonl"), "/data/math.jsonl", "/data/code.jsonl")
    ]
    assert [next(iter(entry["columns"].items())) for entry in info] == [
        *(("body", "response"), ("text", "response"), ("text", "response"))
    ]
    assert yaml.safe_load(files["mixture.yaml"])["dataset"][0].startswith(f"{tmp_path / 'ja.jsonl'}#")


@pytest.mark.parametrize(("form", "templated", "command"), [("text", False, "pt"), ("completion", False, "sft")])
def test_plain_text_is_not_put_into_a_chat_template(form: str, templated: bool, command: str) -> None:
    text = write_ms_swift(made_plan(5000, form=form))["mixture.yaml"]
    assert yaml.safe_load(text)["use_chat_template"] is templated
    assert f"# swift {command} mixture.yaml --model MODEL" in text


def test_conversations_take_the_template_and_their_prompts_of_the_system() -> None:
    plan = made_plan(5000, form="chat", traits={SYSTEM_COLUMN: "ja.jsonl, line 1"})
    files = write_ms_swift(plan)
    assert yaml.safe_load(files["mixture.yaml"])["use_chat_template"] is True
    assert json.loads(files["dataset_info.json"])[0]["columns"]["system"] == "system"


@pytest.mark.parametrize(
    ("traits", "told"),
    [
        ({TOOLS: "line 3"}, "ms-swift writes tools by an agent template of its own (line 3)"),
        ({MESSAGE_KEY + "weight": "line 2"}, "ms-swift drops 'weight' of a message, or reads it its own way (line 2)"),
        ({SYSTEM_COLUMN: "l. 1", SYSTEM_GAP: "l. 2"}, "may take an empty 'system' for a prompt of the system (l. 2)"),
    ],
)
def test_conversations_that_ms_swift_reads_otherwise_are_refused(traits: dict[str, str], told: str) -> None:
    message = refused(write_ms_swift, made_plan(5000, form="chat", traits=traits))
    assert told in message
    assert "Export --to interleave" in message


def test_a_column_that_is_ignored_is_no_prompt_of_the_system() -> None:
    """A gap without a prompt anywhere: the column is put aside."""
    columns = json.loads(
        write_ms_swift(made_plan(5000, form="chat", traits={SYSTEM_GAP: "line 1"}))["dataset_info.json"]
    )[0]["columns"]
    assert columns["system"] == "aside_system"


@pytest.mark.parametrize(
    ("place", "told"),
    [
        (DomainFiles("ja", ("/d/a.jsonl", "/d/b.jsonl"), "json", "text", "text"), "takes one file a domain, found 2"),
        (DomainFiles("ja", ("/d/a.jsonl.gz",), "json", "text", "text"), ".json, .jsonl, .parquet, found /d/a.jsonl.gz"),
        (DomainFiles("ja", ("/d/a",), "saved", "text", "text"), "ms-swift reads JSON lines or parquet"),
        (DomainFiles("ja", ("/d/a[1].jsonl",), "json", "text", "text"), "takes '[' of /d/a[1].jsonl for a pattern"),
        (
            DomainFiles("ja", ("/d/a.jsonl",), "json", "chat", "text", ignored=("loss",)),
            "reads 'loss' of a message, and it is ignored",
        ),
    ],
)
def test_data_that_ms_swift_does_not_read_as_it_lies(place: DomainFiles, told: str) -> None:
    assert told in refused(check_ms_swift, [place])


def test_documents_and_answers_are_two_runs_of_ms_swift() -> None:
    places = [DomainFiles(form, (f"/d/{form}.jsonl",), "json", form, "text") for form in ("text", "chat")]
    assert "is of `format: chat`, 'text' of `format: text`, and ms-swift takes one" in refused(check_ms_swift, places)
