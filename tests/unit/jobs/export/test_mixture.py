"""`aftermix export --to TRAINER`: what is read, counted, told, written and refused."""

from __future__ import annotations

import csv
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner

from aftermix.cli import TRAINERS, cli
from aftermix.errors import AftermixError
from aftermix.jobs.export.domain_counts import CACHE
from aftermix.jobs.export.mixture import ExportOptions, export_mixture
from aftermix.mixture.exports.consumers import CONSUMERS
from support.export_world import RATIOS, ExportWorld, make_export_world, write_records

Export = Callable[..., list[str]]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> ExportWorld:
    return make_export_world(tmp_path_factory.mktemp("export"))


@pytest.fixture
def export(world: ExportWorld, tmp_path: Path) -> Export:
    def run(to: str, *, source: Path | None = None, **asked: Any) -> list[str]:
        said: list[str] = []
        options = {"data": world.file} | asked
        export_mixture(source or world.run, tmp_path / "out", to=to, options=ExportOptions(**options), log=said.append)
        return said

    return run


def rows_of(path: Path) -> dict[str, dict[str, str]]:
    with path.open(newline="") as file:
        return {row["domain"]: row for row in csv.DictReader(file)}


def test_the_command_offers_every_trainer() -> None:
    assert list(TRAINERS) == list(CONSUMERS)


def test_the_table_has_what_the_data_has(world: ExportWorld, tmp_path: Path, export: Export) -> None:
    said = export("csv", tokens=100_000)
    rows = rows_of(tmp_path / "out")
    assert list(rows) == list(RATIOS)
    for name, ratio in RATIOS.items():
        lengths = [world.tokens_of[text] for text in world.held(name)]
        row, mean = rows[name], sum(lengths) / len(lengths)
        assert (row["tokens_held"], row["examples_held"]) == (str(sum(lengths)), str(len(lengths)))
        assert (float(row["wanted_ratio"]), float(row["ratio"])) == (ratio, ratio)
        assert int(row["tokens"]) == round(100_000 * ratio)
        assert int(row["examples"]) == round(100_000 * ratio / mean)
        assert float(row["epochs"]) == pytest.approx(100_000 * ratio / sum(lengths), abs=1e-4)
        assert any(
            line.startswith(f"{name}: {ratio:.2%} of the tokens, {round(1e5 * ratio):,} tokens") for line in said
        )


def test_counts_are_kept_beside_the_output(world: ExportWorld, tmp_path: Path, export: Export) -> None:
    export("csv", tokens=1000)
    kept = json.loads((tmp_path / CACHE).read_text())
    assert len(kept) == 3
    for entry in kept.values():  # what is read again would say otherwise
        entry["examples"] *= 2
    (tmp_path / CACHE).write_text(json.dumps(kept))
    (tmp_path / "out").unlink()
    export("csv", tokens=1000)
    assert rows_of(tmp_path / "out")["ja"]["examples_held"] == "8000"
    (tmp_path / CACHE).write_text("{broken")
    (tmp_path / "out").unlink()
    export("csv", tokens=1000)
    assert rows_of(tmp_path / "out")["ja"]["examples_held"] == "4000"


def test_repetition_is_capped_and_both_ratios_are_told(world: ExportWorld, tmp_path: Path, export: Export) -> None:
    held = sum(world.tokens_of[text] for text in world.held("ja"))
    said = export("csv", tokens=10 * held, max_epochs=2.9)
    rows = rows_of(tmp_path / "out")
    assert float(rows["ja"]["epochs"]) == pytest.approx(2.9)
    assert float(rows["ja"]["ratio"]) == pytest.approx(0.29)
    assert float(rows["math"]["ratio"]) / float(rows["code"]["ratio"]) == pytest.approx(2.5)
    assert any(line.startswith("ja: 29.00% of the tokens (asked for: 30.00%)") for line in said)


def test_the_default_budget_repeats_nothing(tmp_path: Path, export: Export) -> None:
    export("csv")
    epochs = [float(row["epochs"]) for row in rows_of(tmp_path / "out").values()]
    assert max(epochs) == pytest.approx(1, abs=1e-3)


def test_a_mixture_of_a_file_has_its_own_budget_and_cap(world: ExportWorld, tmp_path: Path, export: Export) -> None:
    said = export("csv", source=world.file, data=None)
    assert said[0].startswith("200,000 tokens in ")
    assert float(rows_of(tmp_path / "out")["ja"]["epochs"]) < 9


def test_a_best_json_alone_is_a_source(world: ExportWorld, tmp_path: Path, export: Export) -> None:
    best = shutil.copy(world.run / "best.json", tmp_path / "found.json")
    export("csv", source=Path(best), tokens=1000)
    assert set(rows_of(tmp_path / "out")) == set(RATIOS)


def test_a_run_that_names_its_data_needs_no_other_file(world: ExportWorld, tmp_path: Path, export: Export) -> None:
    run = tmp_path / "run"
    shutil.copytree(world.run, run)
    train = yaml.safe_load(world.file.read_text())
    for section in (train["train"]["datasets"], train["train"]["sources"]):
        section.update({name: {"data": str(world.folder / f"{name}.jsonl")} for name in section if name != "found"})
    (run / "config.yaml").write_text(yaml.safe_dump({**train, "base": str(world.folder / "base")}))
    export("csv", source=run, data=None, tokens=1000)
    assert set(rows_of(tmp_path / "out")) == set(RATIOS)


@pytest.mark.parametrize("trainer", [name for name in CONSUMERS if name != "csv"])
def test_every_trainer_gets_its_files_the_table_and_the_epochs(trainer: str, tmp_path: Path, export: Export) -> None:
    export(trainer, tokens=40_000)
    files = {file.name: file.read_text() for file in (tmp_path / "out").iterdir()}
    assert "mixture.csv" in files
    told = [text for text in files.values() if "# ja: 30.00% of the tokens, 12,000 tokens" in text]
    assert len(told) == 1
    assert "epochs" in told[0]
    assert not any("old" in text.split() for text in files.values())


def test_the_command_writes_and_tells(world: ExportWorld, tmp_path: Path) -> None:
    out = tmp_path / "out"
    options = [
        "--data",
        str(world.file),
        "--tokens",
        "4e4",
        "--max-epochs",
        "1",
        "--root",
        "bin",
        "--sequence-length",
        "64",
    ]
    found = CliRunner().invoke(cli, ["export", str(world.run), "--to", "megatron", "-o", str(out), *options])
    assert found.exit_code == 0, found.output
    assert "ja: 30.00% of the tokens" in found.output
    assert f"File: {out / 'data_args.txt'}" in found.output
    assert (out / "data_args.txt").read_text().split()[:2] == ["20", "bin/code_text_document"]
    assert "--train-samples 625" in (out / "arguments.sh").read_text()


def test_mergekit_takes_no_options_of_trainers(world: ExportWorld, tmp_path: Path) -> None:
    arguments = ["export", str(world.run), "--to", "mergekit", "-o", str(tmp_path / "x.yaml"), "--tokens", "9"]
    found = CliRunner().invoke(cli, arguments)
    assert found.exit_code == 2
    assert "mergekit takes none of them" in found.output


def refused(export: Export, to: str = "csv", **options: Any) -> str:
    with pytest.raises(AftermixError) as error:
        export(to, **options)
    return str(error.value)


def with_best(tmp_path: Path, content: dict[str, Any]) -> Path:
    path = tmp_path / "best.json"
    path.write_text(json.dumps(content))
    return path


def with_data(tmp_path: Path, world: ExportWorld, **changes: Any) -> Path:
    """The file of the world with other sources."""
    train = yaml.safe_load(world.file.read_text())
    sources = {name: {"data": str(world.folder / f"{name}.jsonl")} for name in RATIOS} | changes
    values = {"base": str(world.folder / "base"), "train": {"datasets": {"only": "x.jsonl"}, "sources": sources}}
    assert train
    path = tmp_path / "data.yaml"
    path.write_text(yaml.safe_dump(values))
    return path


def test_ratios_that_cannot_be_used(tmp_path: Path, export: Export) -> None:
    unknown = with_best(tmp_path, {"ratios": {"ja": 0.5, "zh": 0.5}})
    assert "there is no dataset 'zh'; known are: ja, code, math" in refused(export, source=unknown)
    zeros = with_best(tmp_path, {"ratios": {"ja": 0.0, "math": 0.0}})
    assert "the ratios add up to 0. Make them add up to 1." in refused(export, source=zeros)
    note = "every data vector has a weight of 0 or below (ja -0.100)"
    none = with_best(tmp_path, {"ratios": None, "ratios_note": note})
    assert f"gives no data ratios: {note}" in refused(export, source=none)
    assert "gives no data ratios: it has no `ratios`" in refused(export, source=with_best(tmp_path, {}))
    assert "its `ratios` are not numbers by name" in refused(export, source=with_best(tmp_path, {"ratios": [1]}))
    assert not (tmp_path / "out").exists()


def test_sources_without_a_mixture(world: ExportWorld, tmp_path: Path, export: Export) -> None:
    assert "holds no best.json" in refused(export, source=world.folder)
    (tmp_path / "unfinished").mkdir()
    (tmp_path / "unfinished" / "config.yaml").write_text("base: x\n")
    assert "is a run without a winner yet" in refused(export, source=tmp_path / "unfinished")
    plain = with_data(tmp_path, world)
    assert "no dataset of the file is a mixture" in refused(export, source=plain)
    assert "is for a YAML file with several mixtures" in refused(export, dataset="found")
    assert "there is no mixture 'ja'; the file's are: found" in refused(export, source=world.file, dataset="ja")
    two = yaml.safe_load(world.file.read_text())
    two["train"]["datasets"]["other"] = {"mixture": {"ja": 1.0}, "tokens": 10}
    (tmp_path / "two.yaml").write_text(yaml.safe_dump(two))
    assert "holds several mixtures: found, other. Choose one" in refused(export, source=tmp_path / "two.yaml")


def test_data_that_is_not_there_or_unreadable(world: ExportWorld, tmp_path: Path, export: Export) -> None:
    assert "names no data: it has no `train:`. Name a file with `train:` by --data" in refused(export, data=None)
    absent = with_data(tmp_path, world, ja={"data": "nowhere.jsonl"})
    assert "there is no such file" in (message := refused(export, data=absent))
    assert message.startswith("mixture.ja: ")
    broken = with_data(tmp_path, world, ja={"data": str(write_records(tmp_path / "b.jsonl", [{"txt": "a"}]))})
    assert "line 1: has no field 'text'; its fields: txt" in refused(export, data=broken)
    empty = with_data(tmp_path, world, ja={"data": str(write_records(tmp_path / "e.jsonl", [{"text": ""}]))})
    assert "mixture.ja: " in (message := refused(export, data=empty))
    assert "its data holds no tokens. Name data with text, or give it a ratio of 0." in message
    assert not (tmp_path / "out").exists()


def test_too_little_data_and_occupied_outputs(tmp_path: Path, export: Export) -> None:
    assert "a budget of 9,000,000 tokens needs more than the" in refused(export, tokens=9_000_000)
    (tmp_path / "out").write_text("here before")
    assert (
        "out: exists. Name a new file with -o, or remove this one yourself: a file is never written over."
        in refused(export)
    )
    assert "exists and is not empty" in refused(export, to="trl")
    assert (tmp_path / "out").read_text() == "here before"


def test_what_a_trainer_cannot_read_is_refused_before_it_is_counted(
    world: ExportWorld, tmp_path: Path, export: Export
) -> None:
    (tmp_path / "ja.txt").write_text("ja one")
    plain = with_data(tmp_path, world, ja={"data": str(tmp_path / "ja.txt")})
    for trainer, name in (("trl", "TRL"), ("llamafactory", "LLaMA-Factory"), ("axolotl", "axolotl")):
        message = refused(export, to=trainer, data=plain)
        assert f"mixture.ja: {name} reads JSON lines or parquet" in message
        assert "found plain text. Write it as one file of JSON lines" in message
    chat = {"data": str(write_records(tmp_path / "c.jsonl", [{"messages": []}])), "format": "chat"}
    mixed = with_data(tmp_path, world, ja=chat)
    unlike = "is of `format: chat`, 'code' of `format: text`, and TRL takes one"
    assert unlike in refused(export, to="trl", data=mixed)
    assert "trains documents and answers in two runs" in refused(export, to="llamafactory", data=mixed)
    named = with_data(tmp_path, world, ja={"data": str(world.folder / "ja.jsonl"), "text_field": "id"})
    assert "has its text in 'id', 'code' in 'text', and TRL takes one" in refused(export, to="trl", data=named)
    (tmp_path / "several").mkdir()
    for number in (1, 2):
        write_records(tmp_path / "several" / f"{number}.jsonl", [{"text": "ja one"}])
    several = with_data(tmp_path, world, ja={"data": str(tmp_path / "several")})
    assert "reads one file a data set, found 2. Join them" in refused(export, to="llamafactory", data=several)
    assert not (tmp_path / CACHE).exists()


def test_a_domain_that_axolotl_would_repeat_names_the_largest_budget(
    world: ExportWorld, tmp_path: Path, export: Export
) -> None:
    message = refused(export, to="axolotl", tokens=250_000)
    assert message.startswith("mixture.ja: axolotl repeats nothing, and the budget needs ")
    most = int(message.split("--tokens ")[1].split(" ")[0])
    export("axolotl", tokens=most)
    (tmp_path / "out").rename(tmp_path / "first")
    assert "axolotl repeats nothing" in refused(export, to="axolotl", tokens=round(most * 1.01))
    export("axolotl", tokens=250_000, max_epochs=1)


@pytest.mark.parametrize("tokens", [0, float("nan"), float("inf")])
def test_numbers_that_are_none(tokens: float, tmp_path: Path, export: Export) -> None:
    assert f"--tokens: expected a number of tokens, found {tokens}." in refused(export, tokens=tokens)
    assert "--max-epochs: expected more than 0, found nan." in refused(export, max_epochs=float("nan"))
    assert not (tmp_path / "out").exists()


def test_megatron_cannot_hold_a_root_with_spaces(export: Export) -> None:
    assert "--root: the blend is split at white space, found 'my data'" in refused(
        export, to="megatron", root="my data"
    )
