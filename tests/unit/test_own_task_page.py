"""The page on a task of one's own: its files are written as it says, and its commands give what it shows."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest
import yaml
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from conftest import run_cli

PAGE = (Path(__file__).parents[2] / "docs/how-to/own-task.md").read_text(encoding="utf-8")
FILES = dict(re.findall(r"^`([^`\n]+)`:\n\n```[^\n]*\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL))
SHOWN = re.findall(
    r"```bash\naftermix evaluate (\S+) --show 1\n```\n\n```text\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL
)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The files of the page, and a model whose tokens are the words of them."""
    folder = tmp_path_factory.mktemp("own-task")
    for name, content in FILES.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(content, encoding="utf-8")

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=2000, special_tokens=["<end>"], initial_alphabet=alphabet, show_progress=False
    )
    prose = " ".join(FILES.values()).replace("\\n", " ")
    words = re.findall(r"\w+|[^\w\s]", prose)
    texts = [text for word in words for text in (word, f" {word}")]
    tokenizer.train_from_iterator(texts * 3, trainer)
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<end>")
    fast.save_pretrained(folder / "models/base")

    config = LlamaConfig(
        vocab_size=len(fast), hidden_size=16, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2,
        num_key_value_heads=1, max_position_embeddings=256, eos_token_id=0, bos_token_id=0,
    )  # fmt: skip
    LlamaForCausalLM(config).save_pretrained(folder / "models/base")
    return folder


def test_the_page_has_its_files_and_shows_every_task() -> None:
    tasks = [yaml.safe_load(text)["task"] for name, text in FILES.items() if re.match(r"tasks/.*\.yaml", name)]
    assert sorted(tasks) == ["capitals", "capitals_letters", "capitals_shots", "shuto"]
    assert [file for file, _ in SHOWN] == ["own.yaml", "shuto.yaml", "letters.yaml", "shots.yaml"]


@pytest.mark.parametrize(("file", "shown"), SHOWN, ids=[file for file, _ in SHOWN])
def test_prompts_are_those_that_the_page_shows(
    world: Path, file: str, shown: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(world)
    assert run_cli("evaluate", file, "--show", 1) == 0
    assert capsys.readouterr().out == shown


def test_doctor_and_scores_follow(
    world: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(world)
    assert run_cli("doctor", "own.yaml") == 0
    assert "task 'capitals': search 1, select 1, test 2" in capsys.readouterr().out
    assert run_cli("evaluate", "own.yaml") == 0
    assert re.search(r"^capitals: \d+\.0 \[.*\] on 2 items$", capsys.readouterr().out, re.MULTILINE)


@pytest.mark.parametrize(
    ("file", "old", "new", "told"),
    [
        ("tasks/capitals.yaml", "s.jsonl", "s.json", "data file 'capitals.json' is neither beside the YAML file"),
        ("tasks/capitals.jsonl", r'"answer": 2', r'"answer": 3', "an index beyond the choices"),
        ("tasks/capitals.jsonl", r'"answer": (\d)', r'"answer": "D\1"', "a text that is none of the choices"),
    ],
)
def test_the_errors_of_the_page_are_those_that_come(
    world: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    file: str,
    old: str,
    new: str,
    told: str,
) -> None:
    copied = Path(shutil.copytree(world, tmp_path / "world"))
    content = (copied / file).read_text(encoding="utf-8")
    changed = re.sub(old, new, content) if "answer" in old else content.replace(old, new)
    assert changed != content
    (copied / file).write_text(changed, encoding="utf-8")
    monkeypatch.chdir(copied)
    assert run_cli("evaluate", "own.yaml", "--show", 1) == 2
    assert told in capsys.readouterr().err
