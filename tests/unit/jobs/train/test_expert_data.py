"""The training job over every kind of data: conversations, mixtures, documents kept apart, tokens kept on disk."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from aftermix.config import as_yaml_values, parse_config
from aftermix.errors import AftermixError, ManyProblemsError
from aftermix.jobs.doctor.command import doctor
from aftermix.jobs.train.command import train
from aftermix.training.loop import StepRecorder

TEMPLATE = "{% for m in messages %}{{ m['content'] + '<end>' }}{% endfor %}"
COLOURS = ("red", "old", "sly", "big", "wet")


def lines(path: Path, records: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return path


@pytest.fixture
def chat_base(base_folder: Path, tmp_path: Path) -> Path:
    folder = Path(shutil.copytree(base_folder, tmp_path / "chat-base"))
    (folder / "chat_template.jinja").write_text(TEMPLATE)
    return folder


@pytest.fixture
def domains(tmp_path: Path) -> None:
    lines(tmp_path / "dogs.jsonl", [{"text": f"the {a} dog sees the {b} bird"} for a in COLOURS for b in COLOURS])
    lines(tmp_path / "birds.jsonl", [{"text": f"the {a} bird and the {b} cat"} for a in COLOURS for b in COLOURS])


def record_of(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "train.json").read_text())
    return found


def losses(folder: Path, prompt: str, answer: str) -> tuple[float, float]:
    """Mean loss of the prompt's and of the answer's tokens."""
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    asked, ids = tokenizer(prompt)["input_ids"], tokenizer(prompt + answer, return_tensors="pt")["input_ids"]
    with torch.no_grad():
        log_p = torch.log_softmax(model(input_ids=ids).logits[0, :-1], dim=-1)
    each = -log_p[torch.arange(ids.shape[1] - 1), ids[0, 1:]]
    return float(each[: len(asked) - 1].mean()), float(each[len(asked) - 1 :].mean())


def test_answers_are_learnt_and_questions_are_not(make_config: Any, chat_base: Path, tmp_path: Path) -> None:
    pairs = [(f"the {colour} cat", f"the {other} sees") for colour in COLOURS for other in ("dog", "bird")]
    chats = [{"messages": [{"role": "user", "content": q}, {"role": "assistant", "content": a}]} for q, a in pairs]
    lines(tmp_path / "chat.jsonl", chats)
    lines(tmp_path / "completions.jsonl", [{"prompt": f"{q}<end>", "completion": a} for q, a in pairs])
    datasets = {
        "chat": {"data": "chat.jsonl", "format": "chat", "tokens": 3000},
        "pairs": {"data": "completions.jsonl", "format": "completion", "tokens": 3000},
    }
    folders = train(make_config(base=chat_base, datasets=datasets, mask_documents=True), tmp_path / "experts")
    before = losses(chat_base, "the red cat<end>", "the dog sees")
    for name, folder in folders.items():
        question, answer = losses(folder, "the red cat<end>", "the dog sees")
        assert answer < 1.2 < before[1] - 2
        assert question > answer + 1.5
        record = record_of(folder)
        assert record["data"]["documents"] == 10
        assert record["recipe"]["format"] == datasets[name]["format"]
        assert 3000 <= record["tokens"] < 3032
    with pytest.raises(
        AftermixError, match=r"chat: holds an expert of another recipe \(mask_documents true there, false"
    ):
        train(make_config(base=chat_base, datasets=datasets), tmp_path / "experts")


def test_an_expert_of_an_earlier_labelling_is_not_reused(make_config: Any, chat_base: Path, tmp_path: Path) -> None:
    """Old records name no rules: conversations were labelled otherwise, and all else was as it is."""
    chats = [[{"role": "user", "content": f"the {c} cat"}, {"role": "assistant", "content": "sees"}] for c in COLOURS]
    lines(tmp_path / "chat.jsonl", [{"messages": chat} for chat in chats])
    lines(tmp_path / "pairs.jsonl", [{"prompt": "the red", "completion": f"{colour} cat"} for colour in COLOURS])
    talk, out = {"data": "chat.jsonl", "format": "chat"}, tmp_path / "experts"
    mixtures = {"with": {"talk": 0.5, "cats": 0.5}, "without": {"pairs": 0.5, "cats": 0.5}}
    datasets = {
        "text": {"data": "corpus.jsonl", "tokens": 64},
        "pairs": {"data": "pairs.jsonl", "format": "completion"},
        "talk": talk,
        **{name: {"mixture": ratios, "tokens": 256} for name, ratios in mixtures.items()},
    }
    config = make_config(base=chat_base, context=16, batch_size=1, datasets=datasets, sources={"cats": "corpus.jsonl"})
    labelled = {"talk": 2, "with": 2}
    for name, folder in train(config, out).items():
        record = record_of(folder)
        assert record["recipe"].pop("labels", None) == labelled.get(name)
        (folder / "train.json").write_text(json.dumps(record))

    with pytest.raises(ManyProblemsError) as error:
        train(config, out)
    rules = "(conversations labelled by rules 1 there, by rules 2 here)"
    assert [(problem.where, problem.found) for problem in error.value.problems] == [
        (f"train.datasets.{name}: {out / name}", f"holds an expert of another recipe {rules}") for name in labelled
    ]

    others = make_config(
        base=chat_base,
        context=16,
        batch_size=1,
        datasets={name: datasets[name] for name in datasets if name not in labelled},
        sources={"cats": "corpus.jsonl"},
    )
    said: list[str] = []
    train(others, out, log=said.append)
    assert [line.split(":")[1].split()[0] for line in said] == ["reused"] * 3


def test_what_is_not_read_or_not_written_is_said(make_config: Any, chat_base: Path, tmp_path: Path) -> None:
    answer = {"role": "assistant", "content": "the dog sees", "reasoning_content": "the cat", "mood": "old"}
    chats = [{"messages": [{"role": "user", "content": colour}, answer]} for colour in COLOURS]
    lines(tmp_path / "chat.jsonl", [{**chat, "topic": "dogs"} for chat in chats])
    lines(
        tmp_path / "text.jsonl", [{"text": f"the {c} dog", "title": "dogs", "url": "x", "id": 1} for c in COLOURS * 9]
    )
    ignored = {"data": "chat.jsonl", "format": "chat", "ignore_columns": ["mood", "topic"]}
    section: dict[str, Any] = {
        "datasets": {"chat": ignored, "text": {"data": "text.jsonl", "ignore_columns": ["url"]}},
        "sources": {},
    }
    said: list[str] = []
    folders = train(make_config(base=chat_base, **section), tmp_path / "experts", log=said.append)
    count = len(COLOURS)
    assert any(line.endswith(f"the chat template leaves out {count} of {count} thoughts") for line in said)
    assert any(line.endswith("text.jsonl: 'text' is read, and nothing of 'title'") for line in said)
    record = record_of(folders["chat"])
    assert (record["data"]["thoughts"], record["data"]["thoughts_left_out"]) == (count, count)
    assert record["recipe"]["ignore_columns"] == ["mood", "topic"]
    assert "thoughts" not in record_of(folders["text"])["data"]

    ignored["ignore_columns"] = ["topic"]
    with pytest.raises(AftermixError, match=r'another recipe \(ignore_columns \["mood", "topic"\] there'):
        train(make_config(base=chat_base, **section), tmp_path / "experts")
    message = r"chat.jsonl, line 1, message 2: holds 'mood', which the chat template does not write"
    with pytest.raises(AftermixError, match=message):
        train(make_config(base=chat_base, **section), tmp_path / "others")


def test_a_mixture_gives_what_it_says(make_config: Any, domains: None, tmp_path: Path) -> None:
    section = {
        "datasets": {
            "cats": {"data": "corpus.jsonl", "tokens": 320},
            "mix": {"mixture": {"cats": 0.5, "dogs": 0.3, "birds": 0.2, "none": 0}, "tokens": 2000, "max_epochs": 8},
        },
        "sources": {"dogs": "dogs.jsonl", "birds": {"data": "birds.jsonl"}},
    }
    said: list[str] = []
    folders = train(make_config(**section), tmp_path / "experts", log=said.append)
    record = record_of(folders["mix"])
    given = record["data"]["mixture"]
    assert {name: each["ratio"] for name, each in given.items()} == {"cats": 0.5, "dogs": 0.3, "birds": 0.2}
    assert sum(each["tokens"] for each in given.values()) == record["tokens"] == 2000
    for name, each in given.items():
        assert abs(each["tokens"] - each["ratio"] * 2000) <= 32
        expected = f"mix: {name} gives {each['tokens']} tokens ({each['share']:.2%} for {each['ratio']:.2%}), "
        assert f"{expected}{each['epochs']:.2f} epochs" in said
    assert given["dogs"]["epochs"] == pytest.approx(
        given["dogs"]["tokens"] / given["dogs"]["tokens_per_epoch"], abs=1e-5
    )
    assert given["cats"]["tokens_per_epoch"] is None
    assert 0 < given["cats"]["epochs"] < 1
    assert record["recipe"]["mixture"] == {"cats": 0.5, "dogs": 0.3, "birds": 0.2}
    assert record["epochs"] is None
    said.clear()
    train(make_config(**section), tmp_path / "experts", log=said.append)
    assert [line.split(":")[1].split()[0] for line in said] == ["reused", "reused"]
    other = {**section, "datasets": {"mix": {"mixture": {"dogs": 0.5, "birds": 0.5}, "tokens": 2000}}}
    with pytest.raises(AftermixError, match=r"another recipe \(other data; other text_field; other format"):
        train(make_config(**other), tmp_path / "experts")


def test_ratios_of_a_run(make_config: Any, domains: None, tmp_path: Path) -> None:
    best = tmp_path / "best.json"
    best.write_text(json.dumps({"ratios": {"dogs": 0.75, "birds": 0.25}, "weights": {"it": 0.6}}))
    section = {"datasets": {"mix": {"mixture": "best.json", "tokens": 640}}, "sources": {"dogs": "dogs.jsonl"}}
    with pytest.raises(
        AftermixError, match=r"train.datasets.mix: mixture: there is no dataset 'birds'; known are: dogs"
    ):
        train(make_config(**section), tmp_path / "experts")
    section["sources"] = {"dogs": "dogs.jsonl", "birds": "birds.jsonl"}
    given = record_of(train(make_config(**section), tmp_path / "experts")["mix"])["data"]["mixture"]
    assert {name: each["tokens"] for name, each in given.items()} == {"dogs": 480, "birds": 160}
    for content, message in [
        (
            {"ratios": None, "ratios_note": "The weights were not searched"},
            "gives no data ratios: The weights were not",
        ),
        ({"weights": {}}, "gives no data ratios: it has no `ratios`"),
        ({"ratios": {"dogs": "1"}}, "its `ratios` are not numbers by name"),
    ]:
        best.write_text(json.dumps(content))
        with pytest.raises(AftermixError) as caught:
            train(make_config(**section), tmp_path / "other")
        assert message in str(caught.value)


def test_faults_of_data_are_told_before_the_first_step(
    make_config: Any, chat_base: Path, base_folder: Path, domains: None, tmp_path: Path
) -> None:
    lines(tmp_path / "chat.jsonl", [{"messages": [{"role": "assistant", "content": "the cat " * 40}]}])
    lines(tmp_path / "empty.jsonl", [{"text": ""}])
    datasets = {
        "repeated": {"data": "dogs.jsonl", "tokens": 9000, "max_epochs": 4},
        "mix": {"mixture": {"dogs": 0.9, "birds": 0.1}, "tokens": 9000, "max_epochs": 4},
        "nothing": {"mixture": {"dogs": 0.9, "empty": 0.1}, "tokens": 900},
        "long": {"data": "chat.jsonl", "format": "chat"},
        "sum": {"mixture": {"dogs": 0.9, "birds": 0.9}, "tokens": 900},
        "missing": {"mixture": {"dogs": 0.5, "lost": 0.5}, "tokens": 900},
    }
    sources = {"dogs": "dogs.jsonl", "birds": "birds.jsonl", "empty": "empty.jsonl", "lost": "lost/*.jsonl"}
    with pytest.raises(ManyProblemsError) as caught:
        train(make_config(base=chat_base, datasets=datasets, sources=sources), tmp_path / "experts")
    message = str(caught.value)
    assert message.startswith("6 problems:")
    assert "9000 tokens are " in message
    assert "more than `max_epochs: 4`. Lower `tokens:` to " in message
    assert "train.datasets.mix: mixture.dogs: its " in message
    assert "train.datasets.nothing: mixture.empty: " in message
    assert "empty.jsonl: holds no text" in message
    assert "1 of 1 examples are longer than 32 tokens, up to " in message
    assert "train.datasets.sum: mixture: the ratios add up to 1.8" in message
    assert "train.datasets.missing: mixture.lost: " in message
    assert "matches no file" in message
    assert not (tmp_path / "experts").exists()
    with pytest.raises(
        AftermixError, match=r"the tokenizer has no chat template. Put its chat_template.jinja into the"
    ):
        train(make_config(base=base_folder, datasets={"long": datasets["long"]}), tmp_path / "experts")
    problems = doctor(make_config(base=chat_base, datasets=datasets, sources=sources)).problems
    assert {problem.where.split(":")[0] for problem in problems} == {
        f"train.{name}" for name in ("datasets.sum", "datasets.missing", "sources.lost")
    } - {"train.datasets.missing"}


@pytest.mark.parametrize(
    ("datasets", "message"),
    [
        ({"a": {"tokens": 9}}, "takes 'data' or 'mixture', one of them"),
        ({"a": {"data": "x", "mixture": {"b": 1}}}, "takes 'data' or 'mixture', one of them"),
        ({"a": {"mixture": {"b": 1}}}, "a mixture needs 'tokens'"),
        ({"a": {"mixture": {"b": 1}, "tokens": 9, "format": "chat"}}, "'format' belongs to the sources of a mixture"),
        ({"a": {"mixture": {}, "tokens": 9}}, "mixture"),
        ({"s": "x"}, "'s' is among 'sources' and 'datasets'"),
        ({"a": {"data": "x", "formt": "chat"}}, "is not a known key"),
    ],
)
def test_the_file_is_checked(tmp_path: Path, datasets: dict[str, Any], message: str) -> None:
    with pytest.raises(AftermixError) as caught:
        parse_config({"train": {"datasets": datasets, "sources": {"s": "y"}}}, where="t.yaml", folder=tmp_path)
    assert message in str(caught.value)


def test_the_file_reads_back(make_config: Any, tmp_path: Path) -> None:
    config = make_config(
        datasets={"mix": {"mixture": "best.json", "tokens": 640}, "cats": {"data": "c", "format": "chat"}},
        sources={"dogs": "data/*.jsonl"},
        cache="kept",
    )
    assert config.train.datasets["mix"].mixture == str(tmp_path / "best.json")
    assert config.train.sources["dogs"].data == str(tmp_path / "data/*.jsonl")
    assert config.train.cache == str(tmp_path / "kept")
    assert parse_config(as_yaml_values(config), where="again", folder=Path("/")) == config


def test_kept_tokens_serve_later_runs(make_config: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = train(make_config(cache="kept"), tmp_path / "one")["cats"]
    assert len(list((tmp_path / "kept").iterdir())) == 1
    monkeypatch.setattr("aftermix.jobs.train.expert_data.build_example_encoder", None)
    again = train(make_config(cache="kept"), tmp_path / "two")["cats"]
    assert (first / "model.safetensors").read_bytes() == (again / "model.safetensors").read_bytes()
    assert [entry.name for entry in (tmp_path / "two").iterdir()] == ["cats"]


def test_an_interrupted_mixture_goes_on_where_it_was(
    make_config: Any, chat_base: Path, domains: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Same order, same bytes, and nothing is tokenised again."""
    chats = [{"messages": [{"role": "user", "content": c}, {"role": "assistant", "content": c}]} for c in COLOURS]
    lines(tmp_path / "chat.jsonl", chats)
    config = make_config(
        base=chat_base,
        datasets={"mix": {"mixture": {"dogs": 0.4, "birds": 0.4, "chat": 0.2}, "tokens": 1280}},
        sources={"dogs": "dogs.jsonl", "birds": "birds.jsonl", "chat": {"data": "chat.jsonl", "format": "chat"}},
        mask_documents=True,
        save_steps=1,
    )
    whole = train(config, tmp_path / "whole")["mix"]
    advance = StepRecorder.on_step_end

    def interrupted(self: StepRecorder, *args: Any, **options: Any) -> None:
        advance(self, *args, **options)
        if len(self.losses) == 5:
            raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(StepRecorder, "on_step_end", interrupted)
        with pytest.raises(KeyboardInterrupt):
            train(config, tmp_path / "parts")
    monkeypatch.setattr("aftermix.jobs.train.expert_data.build_example_encoder", None)
    said: list[str] = []
    parts = train(config, tmp_path / "parts", log=said.append)["mix"]
    assert any(line.startswith("mix: goes on after step ") for line in said)
    assert (parts / "model.safetensors").read_bytes() == (whole / "model.safetensors").read_bytes()
    assert record_of(parts)["data"] == record_of(whole)["data"]
    assert [entry.name for entry in (tmp_path / "parts").iterdir()] == ["mix"]


@pytest.mark.parametrize("kind", ["chat", "completion"])
def test_answers_cut_from_their_prompts_stop_nothing(
    make_config: Any, chat_base: Path, tmp_path: Path, kind: str
) -> None:
    """A prompt longer than the context gives sequences without a label; their share is said and recorded."""
    records = [{"prompt": "the red cat " * 40, "completion": "yes"}, *[{"prompt": "the", "completion": "dog"}] * 60]
    if kind == "chat":
        asked = [(record["prompt"], record["completion"]) for record in records]
        turns = [[{"role": "user", "content": q}, {"role": "assistant", "content": a}] for q, a in asked]
        records = [{"messages": messages} for messages in turns]
    lines(tmp_path / "long.jsonl", records)
    entry = {"data": "long.jsonl", "format": kind, "long_examples": "cut"}
    said: list[str] = []
    config = make_config(base=chat_base, datasets={"long": entry}, batch_size=1)
    record = record_of(train(config, tmp_path / "experts", log=said.append)["long"])
    without = record["data"]["sequences_without_label"]
    assert 0 < without < record["steps"]
    share = f"{without} of {record['steps']} steps ({without / record['steps']:.1%})"
    assert said[2] == f"long: {share} hold no token that is learnt; their loss is 0"

    lines(tmp_path / "long.jsonl", records[:1])
    entry |= {"tokens": 96}
    with pytest.raises(AftermixError, match=r"long.jsonl: none of its 3 sequences holds a token that is learnt. Raise"):
        train(make_config(base=chat_base, datasets={"long": entry}, batch_size=1), tmp_path / "none")
    assert not (tmp_path / "none").exists()


def test_a_folder_of_the_hub_is_said_and_trained_on_by_its_train_split(make_config: Any, tmp_path: Path) -> None:
    hub = tmp_path / "hub"
    hub.mkdir()
    for split in ("train", "test", "validation"):
        lines(hub / f"{split}.jsonl", [{"text": f"the {colour} cat of {split}"} for colour in COLOURS * 8])
    (hub / "README.md").write_text("# A card")
    said: list[str] = []
    of_folder = train(make_config(datasets={"cats": "hub"}), tmp_path / "experts", log=said.append)["cats"]
    data = record_of(of_folder)["data"]
    left_out = "left out: split test (1 file), split validation (1 file), README.md"
    counts = f"40 documents, {data['characters']} characters, {data['tokens_per_epoch']} tokens"
    assert said[0] == f"cats: {hub}: the split train (1 file); {left_out}; {counts}"

    chosen = make_config(datasets={"cats": {"data": "hub", "split": "dev"}})
    assert doctor(chosen).problems == []
    other = train(chosen, tmp_path / "other")["cats"]
    alone = train(make_config(datasets={"cats": "hub/validation.jsonl"}), tmp_path / "alone")["cats"]
    weights = [(folder / "model.safetensors").read_bytes() for folder in (of_folder, other, alone)]
    assert weights[0] != weights[1] == weights[2]

    (hub / "train.jsonl").unlink()
    with pytest.raises(
        AftermixError, match=r"train.datasets.cats: .*hub: holds several splits, and none is `train`: te"
    ):
        train(make_config(datasets={"cats": "hub"}), tmp_path / "none")
    with pytest.raises(AftermixError, match="'split' belongs to the sources of a mixture, not to the mixture"):
        make_config(datasets={"mix": {"mixture": {"a": 1}, "split": "train", "tokens": 100}})
