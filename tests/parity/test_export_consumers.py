"""Exported mixtures fed to the trainers' own loading of data, and the tokens that come out counted.

`datasets` is always at hand. The others (trl, llamafactory, axolotl, mosaicml-streaming, megatron-core, ai2-olmo-core,
ms-swift) want an environment of their own; name its Python by `EXPORT_CONSUMERS=PATH/bin/python`. They may be installed
there with `--no-deps`, since reading texts needs a small part of what they require. Seen with trl 1.16.0, llamafactory
0.9.5 (datasets 5.2 and 4.0), axolotl 0.21.0, mosaicml-streaming 0.13.0, megatron-core 0.16.1, ai2-olmo-core 3.0.0 and
ms-swift 4.6.0 (datasets 5.2).
"""

from __future__ import annotations

import json
import os
import subprocess
from collections import Counter
from pathlib import Path

import pytest
import yaml

from aftermix.jobs.export.mixture import ExportOptions, export_mixture
from conftest import save_tokenizer
from support.chat_exports import TEMPLATE, calling, plain, tool
from support.export_world import RATIOS, ExportWorld, make_export_world, write_records

CONSUMERS = os.environ.get("EXPORT_CONSUMERS")
MODULES = {"megatron-bridge": "megatron", "olmo-core": "olmo_core", "ms-swift": "swift"}
"""Package of each trainer that is not called so. Of Megatron-Bridge it is the core that reads its blend."""
DRIVER = Path(__file__).with_name("export_driver.py")
BUDGET = 150_000
WITHIN = 0.01
"""Relative to the wanted ratio."""


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> ExportWorld:
    return make_export_world(tmp_path_factory.mktemp("export"))


def exported(world: ExportWorld, folder: Path, to: str, *, tokens: int = BUDGET) -> Path:
    export_mixture(world.run, folder, to=to, options=ExportOptions(data=world.file, tokens=tokens), log=lambda _: None)
    return folder


def by_trainer(world: ExportWorld, folder: Path, to: str) -> Counter[str]:
    """How often each text came out."""
    if CONSUMERS is None:
        pytest.skip("no trainers are installed; set EXPORT_CONSUMERS to the Python of an environment with them")
    command = [CONSUMERS, str(DRIVER), to, str(folder), str(world.folder)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, cwd=folder)
    missing = f"No module named '{MODULES.get(to, to)}'"
    if missing in done.stderr:
        pytest.skip(f"the environment has no {to}")
    assert done.returncode == 0, done.stderr[-3000:]
    return Counter(json.loads(done.stdout.strip().splitlines()[-1]))


def assert_wanted(world: ExportWorld, texts: Counter[str]) -> None:
    assert world.shares(texts.elements()) == pytest.approx(RATIOS, rel=WITHIN)


def mean(world: ExportWorld, name: str) -> float:
    held = world.held(name)
    return sum(world.tokens_of[text] for text in held) / len(held)


def tokens(world: ExportWorld, texts: Counter[str]) -> int:
    return sum(world.tokens_of[text] * count for text, count in texts.items())


def test_interleave_datasets_gives_the_ratios_and_the_budget(world: ExportWorld, tmp_path: Path) -> None:
    budget = 400_000
    folder = exported(world, tmp_path / "out", "interleave", tokens=budget)
    names: dict[str, object] = {}
    exec(compile((folder / "mixture.py").read_text(), "mixture.py", "exec"), names)  # noqa: S102 - what we wrote
    rows = [row["text"] for seed in (0, 1, 2) for row in names["mixture"](seed)]  # type: ignore[operator]
    texts = Counter(rows)
    assert_wanted(world, texts)
    assert tokens(world, texts) / 3 == pytest.approx(budget, rel=0.01)
    assert {text for text in texts if text.startswith("ja ")} == set(world.held("ja"))


def test_trl_gives_the_ratios_of_data_in_order_of_length(world: ExportWorld, tmp_path: Path) -> None:
    texts = by_trainer(world, exported(world, tmp_path / "out", "trl"), "trl")
    assert_wanted(world, texts)
    assert set(texts.values()) == {1}
    assert {text for text in texts if text.startswith("ja ")} == set(world.held("ja"))


def test_llamafactory_gives_the_ratios(world: ExportWorld, tmp_path: Path) -> None:
    texts = by_trainer(world, exported(world, tmp_path / "out", "llamafactory"), "llamafactory")
    # Domains are drawn one example at a time: some 5,500 draws leave about a point.
    assert world.shares(texts.elements()) == pytest.approx(RATIOS, abs=WITHIN)
    assert tokens(world, texts) == pytest.approx(BUDGET, rel=0.05)
    assert len({text for text in texts if text.startswith("ja ")}) == round(0.3 * BUDGET / mean(world, "ja"))


def test_axolotl_gives_the_ratios_and_the_budget(world: ExportWorld, tmp_path: Path) -> None:
    texts = by_trainer(world, exported(world, tmp_path / "out", "axolotl"), "axolotl")
    assert_wanted(world, texts)
    assert tokens(world, texts) == pytest.approx(BUDGET, rel=WITHIN)
    assert set(texts.values()) == {1}


@pytest.mark.parametrize("budget", [BUDGET, 400_000])
def test_streaming_gives_the_ratios_and_the_budget(world: ExportWorld, tmp_path: Path, budget: int) -> None:
    texts = by_trainer(world, exported(world, tmp_path / "out", "streaming", tokens=budget), "streaming")
    assert_wanted(world, texts)
    assert tokens(world, texts) == pytest.approx(budget, rel=WITHIN)


def test_megatron_blends_samples_in_the_ratios(world: ExportWorld, tmp_path: Path) -> None:
    samples = by_trainer(world, exported(world, tmp_path / "out", "megatron"), "megatron")
    shares = {prefix.removesuffix("_text_document"): count / samples.total() for prefix, count in samples.items()}
    assert shares == pytest.approx(RATIOS, abs=1e-5)


def test_megatron_bridge_reads_samples_of_its_files_in_the_ratios(world: ExportWorld, tmp_path: Path) -> None:
    options = ExportOptions(data=world.file, tokens=BUDGET, sequence_tokens=32)
    export_mixture(world.run, tmp_path / "out", to="megatron-bridge", options=options, log=lambda _: None)
    samples = by_trainer(world, tmp_path / "out", "megatron-bridge")
    shares = {prefix.removesuffix("_text_document"): count / samples.total() for prefix, count in samples.items()}
    assert shares == pytest.approx(RATIOS, abs=1e-3)


def test_olmo_core_plans_sequences_in_the_ratios(world: ExportWorld, tmp_path: Path) -> None:
    sequences = by_trainer(world, exported(world, tmp_path / "out", "olmo-core"), "olmo-core")
    assert {name: count / sequences.total() for name, count in sequences.items()} == pytest.approx(RATIOS, abs=1e-3)
    assert sequences.total() * 64 == BUDGET // 512 * 512


@pytest.mark.parametrize("budget", [100_000, 200_000])
def test_ms_swift_gives_the_ratios_and_the_budget(world: ExportWorld, tmp_path: Path, budget: int) -> None:
    texts = by_trainer(world, exported(world, tmp_path / "out", "ms-swift", tokens=budget), "ms-swift")
    assert_wanted(world, texts)
    assert tokens(world, texts) == pytest.approx(budget, rel=WITHIN)


def test_columns_beside_the_text_are_no_part_of_what_ms_swift_reads(tmp_path: Path) -> None:
    save_tokenizer(tmp_path / "base")
    beside = {"question": "even", "system": "one", "messages": [{"role": "user", "content": "x"}], "Response": "x"}
    write_records(tmp_path / "a.jsonl", [{"text": "sum one", **beside}] * 20)
    write_records(tmp_path / "b.jsonl", [{"query": "even numbers", "history": [["a", "b"]], "images": "x.png"}] * 20)
    sources = {"a": {"data": "a.jsonl"}, "b": {"data": "b.jsonl", "text_field": "query"}}
    train = {"datasets": {"both": {"mixture": {"a": 0.5, "b": 0.5}, "tokens": 60}}, "sources": sources}
    (tmp_path / "train.yaml").write_text(yaml.safe_dump({"base": "base", "train": train}))
    export_mixture(tmp_path / "train.yaml", tmp_path / "out", to="ms-swift", log=lambda _: None)
    found = by_trainer(ExportWorld(tmp_path, {}), tmp_path / "out", "ms-swift")
    assert set(found) == {"sum one", "even numbers"}


@pytest.mark.parametrize("trainer", ["llamafactory", "axolotl"])
def test_conversations_and_completions_arrive_whole(tmp_path: Path, trainer: str) -> None:
    template = "{% for m in messages %}{{ m['content'] }}{% endfor %}"
    save_tokenizer(tmp_path / "base", chat_template=template)
    turns = [{"role": "user", "content": "sum "}, {"role": "assistant", "content": "one"}]
    write_records(tmp_path / "chats.jsonl", [{"messages": turns}] * 40)
    write_records(tmp_path / "pairs.jsonl", [{"prompt": "even ", "completion": "numbers"}] * 40)
    kinds = {"chats": "chat", "pairs": "completion"}
    sources = {name: {"data": f"{name}.jsonl", "format": kind} for name, kind in kinds.items()}
    train = {"datasets": {"both": {"mixture": dict.fromkeys(kinds, 0.5), "tokens": 100}}, "sources": sources}
    (tmp_path / "train.yaml").write_text(yaml.safe_dump({"base": "base", "train": train}))
    export_mixture(tmp_path / "train.yaml", tmp_path / "out", to=trainer, log=lambda _: None)
    world = ExportWorld(tmp_path, {})
    assert set(by_trainer(world, tmp_path / "out", trainer)) == {"sum one", "even numbers"}


@pytest.mark.parametrize("trainer", ["llamafactory", "axolotl"])
def test_tools_prompts_and_odd_paths_arrive_as_they_were_counted(tmp_path: Path, trainer: str) -> None:
    """Domains whose columns differ, in a folder with signs in its name; each is one record many times."""
    folder = tmp_path / "l'été #1 (x)"
    folder.mkdir()
    records = {
        "calls": calling(1),
        "prompts": {**plain(1), "system": "sum ", "tool_ids": [1]},
        "talks": {**plain(2), "note": "2024-01-31"},
        "pairs": {"prompt": "even {x} ", "completion": "numbers", "system": "one", "input": "one"},
    }
    sources = {
        name: {
            "data": str(write_records(folder / f"{name}.jsonl", [record] * 60)),
            "format": "completion" if name == "pairs" else "chat",
        }
        for name, record in records.items()
    }
    sources["pairs"]["ignore_columns"] = ["system", "input"]
    sources["prompts"]["ignore_columns"] = ["tool_ids"]
    sources["talks"]["ignore_columns"] = ["note"]

    save_tokenizer(folder / "base", chat_template=TEMPLATE)
    train = {"datasets": {"all": {"mixture": dict.fromkeys(sources, 0.25), "tokens": 2000}}, "sources": sources}
    (folder / "train.yaml").write_text(yaml.safe_dump({"base": str(folder / "base"), "train": train}))
    export_mixture(folder / "train.yaml", folder / "out", to=trainer, log=lambda _: None)
    assert set(by_trainer(ExportWorld(folder, {}), folder / "out", trainer)) == READ_AS[trainer]


TOOLS, CALLED = json.dumps([tool("even", "one")]), {"name": "even", "arguments": {"one": "sum"}}
CALL = json.dumps([{"type": "function", "function": CALLED}])
READ_AS = {
    "llamafactory": {
        f"{TOOLS}sum 1{json.dumps([CALLED])}oneone",
        "sum even 1numbers",
        "even 2numbers",
        "even {x} numbers",
    },
    "axolotl": {
        f"{TOOLS} user sum 1 assistant {CALL}  tool one assistant one ",
        "system sum  user even 1 assistant numbers ",
        "user even 2 assistant numbers ",
        "even {x} numbers",
    },
}
"""Texts of the four domains as each trainer's loader gives them: messages for its templates, or the template's text."""
