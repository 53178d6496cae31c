"""Held-out loss of a training: what is left out of the data, what is measured when, and the same after a kill."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from aftermix.errors import AftermixError
from aftermix.jobs.train.command import train
from aftermix.training.data.collate import TokenSequence
from aftermix.training.data.encoding import EncodedExample
from aftermix.training.data.packing import CutStream
from aftermix.training.data.token_store import TokenStore
from aftermix.training.held_out.split import collect_sequences, split_documents
from aftermix.training.loop import StepRecorder

WORDS = ["red", "old", "sly", "big", "wet", "the", "cat", "sees", "dog", "bird", "and"]


@pytest.fixture
def texts(tmp_path: Path) -> list[str]:
    """Two hundred documents, each of them there twice."""
    rows = [" ".join(WORDS[(n // 11**place + place) % 11] for place in range(8)) for n in range(0, 20_000, 100)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in rows * 2))
    return rows


def record_of(folder: Path) -> dict[str, Any]:
    record: dict[str, Any] = json.loads((folder / "train.json").read_text())
    return record


def lines_of(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "losses.jsonl").read_text().splitlines()]


def average_loss(folder: Path, rows: list[TokenSequence]) -> float:
    """Mean loss of a model on sequences, one by one."""
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    losses = []
    for row in rows:
        with torch.no_grad():
            losses.append(float(model(input_ids=row.ids[None], labels=row.labels[None]).loss) * row.predictions)
    return sum(losses) / sum(row.predictions for row in rows)


def test_the_loss_of_documents_that_were_not_trained_on(
    make_config: Any, texts: list[str], base_folder: Path, tmp_path: Path
) -> None:
    options = {"held_out": 0.05, "dtype": "float32", "vector": "none"}
    config = make_config(datasets={"rows": {"data": "rows.jsonl"}}, **options)
    said: list[str] = []
    folder = train(config, tmp_path / "experts", log=said.append)["rows"]
    record = record_of(folder)
    held = record["held_out"]
    assert (held["share"], held["documents"]) == (0.05, {"rows": held["documents"]["rows"]})
    assert held["documents"]["rows"] in (20, 22)  # both copies of a document, or neither
    assert record["data"]["documents"] == 400 - held["documents"]["rows"]
    assert record["recipe"]["held_out"] == 0.05

    tokenizer = AutoTokenizer.from_pretrained(base_folder)
    tokens = {text: [*tokenizer(text)["input_ids"], 0] for text in texts}
    everything = 2 * sum(map(len, tokens.values()))
    assert record["data"]["tokens_per_epoch"] == record["tokens"] == everything - held["tokens"]["rows"]
    assert record["epochs"] == 1
    line = f"rows: holds out {held['documents']['rows']} documents ({held['tokens']['rows']} tokens) of rows, "
    assert f"{line}never trained on; the loss on them is measured {len(held['points'])} times" in said

    # Each point has the loss of the model there: the base's at the start, the expert's at the end.
    journal = lines_of(folder)
    assert [entry["step"] for entry in journal] == list(range(record["steps"] + 1))
    assert (journal[0]["tokens"], "loss" in journal[0], journal[-1]["tokens"]) == (0, False, record["tokens"])
    points = {entry["step"]: entry["held_out"]["rows"] for entry in journal if "held_out" in entry}
    assert points == {point["step"]: point["domains"]["rows"] for point in held["points"]}
    assert all(point["loss"] == point["domains"]["rows"] for point in held["points"])
    assert {0, record["steps"]} <= set(points)
    assert journal[-1]["held_out"]["rows"] < journal[0]["held_out"]["rows"] - 0.5

    # The same documents, found again from the texts alone.
    encoded = [EncodedExample(np.asarray(tokens[text], np.int32)) for text in texts * 2]
    store = TokenStore.collect(encoded, characters=map(len, texts * 2))
    part = split_documents({"rows": store}, 0.05, seed=0)["rows"]
    assert part.held is not None
    rows = collect_sequences(CutStream(part.held, 32, 0))
    assert average_loss(base_folder, rows) == pytest.approx(points[0], abs=1e-5)
    assert average_loss(folder, rows) == pytest.approx(points[record["steps"]], abs=1e-5)


@pytest.mark.parametrize("optimizer", ["adamw", {"name": "merge_aware", "scale": 1e-3}])
def test_measuring_changes_no_weight_and_survives_a_stop(
    make_config: Any, texts: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, optimizer: Any
) -> None:
    datasets = {"rows": {"data": "rows.jsonl", "tokens": 1600}}
    config = make_config(datasets=datasets, held_out=0.02, save_steps=3, optimizer=optimizer)
    whole = train(config, tmp_path / "whole")["rows"]
    assert record_of(whole)["steps"] == 13
    assert len(record_of(whole)["held_out"]["points"]) > 4

    with monkeypatch.context() as patch:
        patch.setattr("aftermix.jobs.train.held_out_run.plan_points", lambda *_, **__: frozenset({0}))
        unmeasured = train(config, tmp_path / "unmeasured")["rows"]
    assert (unmeasured / "model.safetensors").read_bytes() == (whole / "model.safetensors").read_bytes()

    advance = StepRecorder.on_step_end

    def stop(self: StepRecorder, *args: Any, **known: Any) -> None:
        advance(self, *args, **known)
        if len(self.losses) == 8:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(StepRecorder, "on_step_end", stop)
        with pytest.raises(KeyboardInterrupt):
            train(config, tmp_path / "stopped")
    journal = (tmp_path / "stopped/.rows.training/losses.jsonl").read_text().splitlines()
    assert journal == (whole / "losses.jsonl").read_text().splitlines()[: len(journal)]
    said: list[str] = []
    again = train(config, tmp_path / "stopped", log=said.append)["rows"]
    assert "rows: goes on after step 6 of 13" in said
    for name in ("model.safetensors", "losses.jsonl"):
        assert (again / name).read_bytes() == (whole / name).read_bytes()
    assert record_of(again)["held_out"] == record_of(whole)["held_out"]


def test_domains_of_a_mixture(make_config: Any, texts: list[str], tmp_path: Path) -> None:
    """Each has its loss; a document of two domains is held out of both; the mean is by what is trained on."""
    for name, rows in (("first", texts[:120]), ("second", texts[60:])):
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in rows))
    datasets = {"mix": {"mixture": {"first": 0.75, "second": 0.25}, "tokens": 1600}}
    sources = {"first": "first.jsonl", "second": "second.jsonl"}
    folder = train(make_config(datasets=datasets, sources=sources, held_out=0.1), tmp_path / "experts")["mix"]
    record = record_of(folder)
    given, held = record["data"]["mixture"], record["held_out"]
    assert set(held["documents"]) == set(held["tokens"]) == {"first", "second"}
    for point in held["points"]:
        mean = sum(given[name]["share"] * point["domains"][name] for name in given)
        assert point["loss"] == pytest.approx(mean, rel=1e-6)

    page = (tmp_path / "experts/report.html").read_text()
    assert "1 expert measured on documents that it was not trained on" in page
    assert all(f"held out, {name}" in page for name in given)
    assert f"{held['points'][-1]['domains']['second']:.4f}" in page
    assert page.count("<svg") == 1


def test_nothing_is_held_out_by_default_and_of_one_document(make_config: Any, tmp_path: Path) -> None:
    folder = train(make_config(), tmp_path / "plain")["cats"]
    assert "held_out" not in record_of(folder)
    assert not (folder / "losses.jsonl").exists()
    assert not (tmp_path / "plain/report.html").exists()
    with pytest.raises(AftermixError, match=r"another recipe \(held_out 0.0 there, 0.01 here\)"):
        train(make_config(held_out=0.01), tmp_path / "plain")

    (tmp_path / "one.txt").write_text("the old cat sees the big dog and the wet bird " * 40)
    said: list[str] = []
    one = make_config(datasets={"one": {"data": "one.txt", "tokens": 200}}, held_out=0.01)
    assert "held_out" not in record_of(train(one, tmp_path / "one", log=said.append)["one"])
    assert (
        "one: holds out nothing: its documents are one and the same, or nothing is learnt of those that would be"
        in said
    )


def test_a_budget_is_met_without_what_is_held_out(make_config: Any, texts: list[str], tmp_path: Path) -> None:
    datasets = {"rows": {"data": "rows.jsonl", "tokens": 2000}}
    folder = train(make_config(datasets=datasets, held_out=0.3), tmp_path / "experts")["rows"]
    record = record_of(folder)
    assert record["tokens"] == 2000
    assert record["data"]["tokens_per_epoch"] is None  # not all was tokenised
    assert 0.2 < record["held_out"]["tokens"]["rows"] / 2000 < 0.7
    assert record["epochs"] < 1
