"""`aftermix calibrate`, from a YAML file to statistics that a merge can read."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from click.testing import CliRunner

from aftermix.api.commands.texts import describe_calibration
from aftermix.checkpoints.pool import open_pool
from aftermix.cli import cli
from aftermix.config import Config, load_config
from aftermix.errors import AftermixError
from aftermix.jobs.calibrate.command import calibrate
from aftermix.saliency.storage import read_statistics

TEXT = "the sum of the numbers is even and the answer is one of these "


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture
def texts(tmp_path: Path) -> Path:
    """Twelve short documents, and one plain text of many words."""
    rows = [{"text": " ".join(TEXT.split()[: 3 + number % 5]), "body": "even"} for number in range(12)]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "b.txt").write_text(TEXT * 20)
    return tmp_path


def written(folder: Path, family: dict[str, Path], **values: Any) -> Path:
    vectors = {
        "a": {"model": str(family["a"]), "calibration": "a.jsonl"},
        "b": {"model": str(family["b"]), "calibration": {"data": "b.txt"}},
        "c": {"model": str(family["c"])},
    }
    file = folder / "merge.yaml"
    content = {"base": str(family["base"]), "vectors": vectors, "calibrate": {"samples": 5}}
    file.write_text(yaml.safe_dump({**content, **values}))
    return file


def job(folder: Path, family: dict[str, Path], **values: Any) -> Config:
    return load_config(written(folder, family, **values))


def test_statistics_of_every_vector_that_names_text(texts: Path, family: dict[str, Path]) -> None:
    file = written(texts, family)
    result = CliRunner().invoke(cli, ["calibrate", str(file), "-o", str(texts / "out")])
    assert result.exit_code == 0, result.output
    assert result.stdout.splitlines()[0].startswith("a: 15 weights, 5 samples of 12 texts, ")
    assert result.stdout.splitlines()[1].startswith("b: 15 weights, 5 samples of 1 texts, ")
    assert sorted(path.name for path in (texts / "out").iterdir()) == [
        "a.json",
        "a.safetensors",
        "b.json",
        "b.safetensors",
    ]
    experts = open_pool(load_config(file)).experts
    for name in ("a", "b"):
        statistics = read_statistics(texts / "out", name)
        statistics.refuse_other(experts[name])
        head = statistics.mean_square("lm_head.weight")
        assert head is not None
        assert head.shape == (32,)
        assert statistics.note.uncovered == ()
        assert statistics.note.options["samples"] == 5
        assert statistics.tokens("lm_head.weight") == (statistics.note.data.tokens,)
    assert read_statistics(texts / "out", "b").note.data.context == 64


@pytest.mark.parametrize("settings", [{}, {"stream": True}, {"batch_size": 1}])
def test_the_same_configuration_gives_the_same_bytes(
    texts: Path, family: dict[str, Path], settings: dict[str, Any]
) -> None:
    config = job(texts, family, calibrate={"samples": 5, **settings})
    for output in ("one", "two"):
        calibrate(config, texts / output)
    for path in (texts / "one").iterdir():
        assert path.read_bytes() == (texts / "two" / path.name).read_bytes()


def test_streaming_changes_no_bit_of_the_values(texts: Path, family: dict[str, Path]) -> None:
    calibrate(job(texts, family), texts / "whole")
    calibrate(job(texts, family, calibrate={"samples": 5, "stream": True}), texts / "streamed")
    for name in ("a.safetensors", "b.safetensors"):
        assert (texts / "whole" / name).read_bytes() == (texts / "streamed" / name).read_bytes()


def test_the_square_of_the_mean_is_below_the_mean_of_squares(texts: Path, family: dict[str, Path]) -> None:
    calibrate(job(texts, family), texts / "moment")
    calibrate(job(texts, family, calibrate={"samples": 5, "x_statistic": "mean_input"}), texts / "mean")
    moment, mean = (read_statistics(texts / name, "a") for name in ("moment", "mean"))
    for name in moment.note.weights:
        square, smaller = moment.mean_square(name), mean.mean_square(name)
        assert square is not None
        assert smaller is not None
        assert bool((smaller <= square * 1.0001).all())
        assert not torch.equal(smaller, square)


def test_prompts_of_a_task_are_read_without_test_items(texts: Path, family: dict[str, Path], tasks: Path) -> None:
    vectors = {"a": {"model": str(family["a"]), "calibration": {"task": "colours"}}}
    evaluate = {"tasks": ["numbers"], "include_path": str(tasks), "items": {"search": 4, "select": 3}}
    config = job(texts, family, vectors=vectors, evaluate=evaluate, calibrate={"samples": 5})
    note = calibrate(config, texts / "out")["a"]
    assert note.data.source == "task colours"
    assert (note.data.texts, note.data.samples) == (7, 5)


def test_an_adapter_and_a_stored_vector_read_as_their_expert_would(texts: Path, family: dict[str, Path]) -> None:
    from aftermix.jobs.diff import diff

    diff(str(family["a"]), base=str(family["base"]), output=texts / "vector")
    vectors = {
        "a": {"model": str(family["a"]), "calibration": "a.jsonl"},
        "stored": {"model": str(texts / "vector"), "calibration": "a.jsonl"},
    }
    calibrate(job(texts, family, vectors=vectors), texts / "out")
    whole, stored = (read_statistics(texts / "out", name) for name in vectors)
    for name in whole.note.weights:
        ours, theirs = whole.mean_square(name), stored.mean_square(name)
        assert ours is not None
        assert theirs is not None
        # Stored in bfloat16, the difference is rounded once more.
        torch.testing.assert_close(ours, theirs, rtol=2e-2, atol=1e-3)


REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"vectors": {"a": {"model": "MODEL"}}}, "vectors: no vector names calibration text. Add `calibration: PATH`"),
    ({"calibrate": {"context": 65}}, "calibrate.context: expected at most the 64 positions of "),
    ({"calibrate": {"context": 2}}, "expected at most 2 tokens, found "),
    ({"calibrate": {"device": "cuda:99"}}, "calibrate.device: 'cuda:99' cannot be used"),
    ({"calibration": "none.jsonl"}, "none.jsonl: there is no such file. Correct `vectors.a.calibration`"),
    ({"calibration": "empty.jsonl"}, "empty.jsonl: holds no text. Name a file with at least one document."),
    (
        {"calibration": {"data": "a.jsonl", "text_field": "x"}},
        "has no field 'x'; its fields: body, text. Set `vec",
    ),
    ({"calibration": {"task": "colours"}, "evaluate": {"tasks": ["x"], "include_path": "nowhere"}}, "is not a folder"),
]


@pytest.mark.parametrize(("values", "message"), REFUSED)
def test_bad_input_is_refused_and_nothing_is_written(
    texts: Path, family: dict[str, Path], values: dict[str, Any], message: str
) -> None:
    (texts / "empty.jsonl").write_text('{"text": ""}\n')
    settings = dict(values)
    if "calibration" in settings:
        settings["vectors"] = {"a": {"model": str(family["a"]), "calibration": settings.pop("calibration")}}
    elif "vectors" in settings:
        settings["vectors"] = {"a": {"model": str(family["a"])}}
    with pytest.raises(AftermixError) as raised:
        calibrate(job(texts, family, **settings), texts / "out")
    assert message in str(raised.value)
    assert not (texts / "out").exists()


def test_faults_of_all_vectors_are_told_together(texts: Path, family: dict[str, Path]) -> None:
    vectors = {name: {"model": str(family[name]), "calibration": f"{name}.none"} for name in ("a", "b")}
    with pytest.raises(AftermixError, match=r"(?s)2 problems.*vectors\.a\.calibration.*vectors\.b\.calibration"):
        calibrate(job(texts, family, vectors=vectors), texts / "out")


def test_a_folder_that_is_occupied_is_refused(texts: Path, family: dict[str, Path]) -> None:
    (texts / "out").mkdir()
    (texts / "out" / "file").touch()
    with pytest.raises(AftermixError, match="exists and is not empty"):
        calibrate(job(texts, family), texts / "out")


def test_the_file_itself_is_checked(texts: Path, family: dict[str, Path]) -> None:
    for values, message in [
        ({"calibrate": {"x_statistic": "x"}}, "calibrate.x_statistic: Input should be 'second_moment' or 'mean_input'"),
        ({"calibrate": {"sample": 1}}, "calibrate.sample: is not a known key. This section takes: samples, context"),
        ({"vectors": {"a": {"model": "m", "calibration": {}}}}, "takes one of `data: PATH` and `task: NAME`"),
    ]:
        with pytest.raises(AftermixError) as raised:
            job(texts, family, **values)
        assert message in str(raised.value)


def test_a_tokenizer_with_more_tokens_than_the_model_is_refused(
    texts: Path, family: dict[str, Path], copied: Any
) -> None:
    folders = [copied("base"), copied("a")]
    for folder in folders:
        tokenizer = json.loads((folder / "tokenizer.json").read_text())
        vocabulary = tokenizer["model"]["vocab"]
        vocabulary["e"], vocabulary["zz"] = 320, vocabulary["e"]
        (folder / "tokenizer.json").write_text(json.dumps(tokenizer))
    (texts / "a.jsonl").write_text('{"text": "eeee"}\n')
    vectors = {"a": {"model": str(folders[1]), "calibration": "a.jsonl"}}
    with pytest.raises(AftermixError, match="gives token 320, but the model has 320 rows, 0 to 319"):
        calibrate(job(texts, family, base=str(folders[0]), vectors=vectors), texts / "out")


def test_weights_without_a_token_are_named(texts: Path, family: dict[str, Path]) -> None:
    note = calibrate(job(texts, family), texts / "out")["a"]
    seen = note.model_copy(update={"uncovered": ("x[1]", "y", "z", "u")})
    assert list(describe_calibration({"a": seen}))[1] == "a: 4 weights saw no token: x[1], y, z, ..."


def test_doctor_looks_at_calibration_text_too(texts: Path, family: dict[str, Path]) -> None:
    from aftermix.jobs.doctor.command import doctor

    found = doctor(job(texts, family))
    assert found.problems == []
    assert any(fact.startswith("calibrate a: 5 of 12 texts, ") for fact in found.facts)
    (texts / "a.jsonl").unlink()
    assert [problem.where for problem in doctor(job(texts, family)).problems] == [
        f"vectors.a.calibration: {texts / 'a.jsonl'}"
    ]


def equal(folder: Path, one: str, other: str) -> bool:
    ours, theirs = (read_statistics(folder, name) for name in (one, other))
    return ours.note.weights.keys() == theirs.note.weights.keys() and all(
        torch.equal(ours.values[name], theirs.values[name]) for name in ours.values
    )


def test_an_expert_under_other_names_is_measured_under_the_bases(texts: Path, family: dict[str, Path]) -> None:
    from safetensors.torch import load_file, save_file

    other = texts / "other"
    other.mkdir()
    for path in family["b"].iterdir():
        if path.suffix != ".safetensors":
            (other / path.name).write_bytes(path.read_bytes())
    tensors = load_file(family["b"] / "model.safetensors")
    renamed = {name.replace("model.", "text.model.", 1): tensor for name, tensor in tensors.items()}
    save_file(renamed, other / "model.safetensors")
    vectors = {
        "b": {"model": str(family["b"]), "calibration": "a.jsonl"},
        "other": {"model": "./other", "prefix": {"text.model.": "model."}, "calibration": "a.jsonl"},
    }
    calibrate(job(texts, family, vectors=vectors), texts / "out")
    assert equal(texts / "out", "b", "other")


def mixture(folder: Path, *, seed: int, fused: bool) -> Path:
    """A tiny Qwen mixture with its experts stored one by one, or stacked."""
    from safetensors.torch import load_file, save_file
    from transformers import AutoConfig, AutoModelForCausalLM

    from conftest import save_tokenizer
    from contracts.families import FAMILIES

    torch.manual_seed(seed)
    family = FAMILIES["qwen3_moe"]
    AutoModelForCausalLM.from_config(AutoConfig.for_model(family.kind, **family.config)).save_pretrained(folder)
    save_tokenizer(folder)
    if fused:
        path = folder / "model.safetensors"
        tensors = load_file(path)
        for layer in range(2):
            block = f"model.layers.{layer}.mlp.experts"
            parts = {
                kind: torch.stack([tensors.pop(f"{block}.{expert}.{kind}_proj.weight") for expert in range(4)])
                for kind in ("gate", "up", "down")
            }
            tensors[f"{block}.gate_up_proj"] = torch.cat([parts["gate"], parts["up"]], dim=1)
            tensors[f"{block}.down_proj"] = parts["down"]
        save_file(tensors, path, metadata={"format": "pt"})
    return folder


@pytest.mark.parametrize("fused_base", [False, True])
def test_a_mixture_is_measured_in_the_layout_of_the_base(texts: Path, fused_base: bool) -> None:
    vectors = {
        name: {"model": str(mixture(texts / name, seed=1, fused=fused)), "calibration": "a.jsonl"}
        for name, fused in (("single", False), ("stacked", True))
    }
    base = mixture(texts / "base", seed=0, fused=fused_base)
    values = {"base": str(base), "vectors": vectors, "calibrate": {"samples": 4, "context": 32}}
    (texts / "mixture.yaml").write_text(yaml.safe_dump(values))
    config = load_config(texts / "mixture.yaml")
    calibrate(config, texts / "out")
    assert equal(texts / "out", "single", "stacked")
    statistics = read_statistics(texts / "out", "stacked")
    block = "model.layers.0.mlp.experts"
    if fused_base:
        factor, counts = statistics.factor(f"{block}.gate_up_proj"), statistics.tokens(f"{block}.gate_up_proj")
        assert factor is not None
        assert factor.shape == (4, 1, 16)
    else:
        counts = tuple(statistics.tokens(f"{block}.{expert}.up_proj.weight")[0] for expert in range(4))
        factors = [statistics.factor(f"{block}.{expert}.up_proj.weight") for expert in range(4)]
        assert [None if factor is None else tuple(factor.shape) for factor in factors] == [
            (1, 16) if count else None for count in counts
        ]
    # Two of four experts for each token; those without one are told.
    assert sum(counts) == 2 * statistics.note.data.tokens
    assert (0 in counts) == any(name.startswith(block) for name in statistics.uncovered)
    statistics.refuse_other(open_pool(config).experts["stacked"])
