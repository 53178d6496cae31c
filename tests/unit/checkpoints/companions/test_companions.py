"""Files beside the weights: everything goes along but what is named, and what stays behind is told."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from aftermix.checkpoints.companions.rules import MAX_FILE_BYTES, list_unwanted_patterns
from aftermix.checkpoints.companions.selection import select_companions
from aftermix.checkpoints.pool import open_pool
from aftermix.config import Config, MergeConfig, VectorConfig
from aftermix.errors import AftermixError
from aftermix.jobs.diff import diff
from aftermix.jobs.doctor.command import doctor
from aftermix.jobs.merge.command import merge
from aftermix.jobs.merge.sentence_modules import find_unscored_modules
from support.own_world import make_encoders

Family = dict[str, Path]
Copy = Callable[[str], Path]
TAKEN = (
    *("spm.model", "sentencepiece.bpe.model", "source.spm", "target.spm", "bpe.codes", "tiktoken.model", "tekken.json"),
    *("normalizer.json", "video_preprocessor_config.json", "preprocessor_config.json", "vocab.txt", "emoji.bin.json"),
    *("params.json", "LICENSE", "label_map.csv", "additional_chat_templates/rag.jinja", "assets/voice.json"),
)
LEFT = (
    *(
        "pytorch_model.bin",
        "optimizer.pt",
        "scheduler.pt",
        "rng_state_0.pth",
        "trainer_state.json",
        "training_args.bin",
    ),
    *("flax_model.msgpack", "tf_model.h5", "model.onnx", "model.Q4_0.gguf", "arrays.npz", "events.out.tfevents.1.x"),
    *("runs/today/events", "helper.py", "checkpoint-500/config.json", "onnx/model.onnx", "quantize_config.json"),
)


def make_config(base: Path, **models: Path) -> Config:
    vectors = {name: VectorConfig(model=str(path), weight=0.5) for name, path in models.items()}
    return Config(base=str(base), vectors=vectors)


def write(folder: Path, *names: str, content: str = "x") -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(f"{content} {name}")


def list_files(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def test_every_file_goes_along_but_those_that_are_named(copied: Copy, family: Family, tmp_path: Path) -> None:
    base = copied("base")
    write(base, *TAKEN, *LEFT)
    write(base, "README.md", ".gitattributes", ".cache/huggingface/x.lock", "__pycache__/x.pyc")
    lines: list[str] = []
    out = merge(make_config(base, b=family["b"]), tmp_path / "out", log=lines.append)

    assert {name for name in TAKEN if not (out / name).is_file()} == set()
    assert all((out / name).read_bytes() == (base / name).read_bytes() for name in TAKEN)
    assert {name for name in LEFT if (out / name).exists()} == set()
    assert (out / "README.md").read_text() != (base / "README.md").read_text()
    assert not {".gitattributes", ".cache", "__pycache__"} & {path.name for path in out.iterdir()}

    (told,) = [line for line in lines if line.startswith("left out of the files beside the base: ")]
    for name in ("pytorch_model.bin", "optimizer.pt", "events.out.tfevents.1.x", "checkpoint-500/", "onnx/", "runs/"):
        assert name in told
    assert "helper.py (code that no `auto_map` names)" in told
    assert "README.md" not in told
    assert told in doctor(make_config(base, b=family["b"])).facts


def test_what_is_large_leads_out_or_holds_another_model_stays_behind(copied: Copy, tmp_path: Path) -> None:
    base, private = copied("base"), tmp_path / "private.txt"
    private.write_text("secret")
    for name, size in (("large.csv", MAX_FILE_BYTES + 1), ("just.csv", MAX_FILE_BYTES)):
        with (base / name).open("wb") as file:
            file.truncate(size)
    (base / "notes.md").symlink_to(private)
    (base / "inside.md").symlink_to("just.csv")
    write(base, "variants/fp32/model.safetensors", "variants/about.json", "pictures/one.txt")
    (base / "elsewhere").symlink_to(tmp_path)
    for number in range(101):
        write(base, f"many/{number}.txt")

    found = select_companions(base)
    assert {"just.csv", "inside.md", "pictures/one.txt"} <= set(found.taken)
    assert found.left_out["larger than 64 MB"] == ["large.csv"]
    assert found.left_out["links that lead out of the folder"] == ["elsewhere/", "notes.md"]
    assert found.left_out["folders with weights of their own"] == ["variants/"]
    assert found.left_out["folders of more than 100 files or 64 MB"] == ["many/"]
    assert not any(name.startswith(("many", "variants", "elsewhere")) for name in found.taken)


CODE = {
    "configuration_own.py": "raise SystemExit('never run')\n",
    "modeling_own.py": "from .configuration_own import OwnConfig\nfrom . import layers_own\nimport os\n",
    "layers_own.py": "from .deep_own import f\nraise SystemExit('never run')\n",
    "deep_own.py": "import torch\n",
    "tokenization_own.py": "from .deep_own import f\n",
    "train_own.py": "import os\n",
    "broken_own.py": "def (",
}


def test_python_files_go_along_where_auto_map_names_them_and_are_not_run(copied: Copy, tmp_path: Path) -> None:
    base, expert = copied("base"), copied("b")
    for folder in (base, expert):
        for name, text in CODE.items():
            (folder / name).write_text(text + f"# {folder.name}\n")
    for name, entries in (
        ("config.json", {"AutoConfig": "configuration_own.Own", "AutoModel": "org/other--modeling_far.Far"}),
        ("tokenizer_config.json", {"AutoTokenizer": ["tokenization_own.Own", None]}),
    ):
        for folder in (base, expert):
            values = json.loads((folder / name).read_text())
            entries = {**entries, **({"AutoModelForCausalLM": "modeling_own.Own"} if name == "config.json" else {})}
            (folder / name).write_text(json.dumps({**values, "auto_map": entries}))

    config = make_config(base, b=expert)
    config.vectors["b"] = VectorConfig(model=str(expert), weight=0.5, role="instruction")
    out = merge(config, tmp_path / "out")
    assert {path.name for path in out.glob("*.py")} == set(CODE) - {"train_own.py", "broken_own.py"}
    assert (out / "modeling_own.py").read_bytes() == (base / "modeling_own.py").read_bytes()
    assert (out / "tokenization_own.py").read_bytes() == (expert / "tokenization_own.py").read_bytes()


def test_tokenizer_and_processor_come_from_the_model_that_gives_the_vocabulary(copied: Copy, tmp_path: Path) -> None:
    base, expert = copied("base"), copied("b")
    write(base, "source.spm", "merges.txt", "preprocessor_config.json", "LICENSE", content="base")
    write(expert, "video_preprocessor_config.json", "tekken.json", "LICENSE", "NOTICE", content="expert")
    for name in ("b", None):
        config = make_config(base, b=expert)
        config = config.model_copy(update={"merge": MergeConfig(vocabulary=name)})
        files = list_files(merge(config, tmp_path / f"out-{name}"))
        spoken = {"video_preprocessor_config.json", "tekken.json"}
        own = {"source.spm", "merges.txt", "preprocessor_config.json"}
        assert (files & (spoken | own)) == (spoken if name == "b" else own)
        assert "NOTICE" not in files
        assert (tmp_path / f"out-{name}" / "LICENSE").read_text() == "base LICENSE"


def make_sentence_models(folder: Path) -> Family:
    """Encoders with a pooling, a dense and a normalising module."""
    family = make_encoders(folder)
    for number, path in enumerate(family.values()):
        torch.manual_seed(number)
        modules = [{"path": ""}, {"path": "1_Pooling"}, {"path": "2_Dense"}, {"path": "3_Normalize"}]
        (path / "modules.json").write_text(json.dumps(modules))
        write(path, "1_Pooling/config.json", "2_Dense/config.json", "config_sentence_transformers.json", content="{}")
        dense = {"linear.weight": torch.randn(8, 16), "linear.bias": torch.randn(8)}
        save_file(dense, path / "2_Dense" / "model.safetensors", metadata={"format": "pt"})
    return family


DENSE = "2_Dense/model.safetensors"


def test_weights_of_sentence_modules_are_merged_as_the_model_is(tmp_path: Path) -> None:
    family = make_sentence_models(tmp_path)
    config = make_config(**family)
    out = merge(config, tmp_path / "out")
    ours, *theirs = (load_file(family[name] / DENSE) for name in ("base", "a", "b"))
    for name, tensor in load_file(out / DENSE).items():
        wanted = ours[name] + 0.5 * (theirs[0][name] - ours[name]) + 0.5 * (theirs[1][name] - ours[name])
        assert torch.allclose(tensor, wanted, atol=1e-6)
    assert list_files(family["base"]) <= list_files(out) | {"README.md"}
    assert "module 2_Dense: 2 tensors, merged" in doctor(config).facts

    # Weights 0 are the base, and so is what a vector without the module, or an exclusion, leaves of it.
    still = config.model_copy(update={"merge": MergeConfig(exclude=("2_Dense/*",))})
    assert (merge(still, tmp_path / "still") / DENSE).read_bytes() == (family["base"] / DENSE).read_bytes()
    (family["b"] / "modules.json").unlink()
    (family["b"] / DENSE).unlink()
    alone = load_file(merge(config, tmp_path / "alone") / DENSE)
    assert torch.allclose(alone["linear.bias"], ours["linear.bias"] / 2 + theirs[0]["linear.bias"] / 2, atol=1e-6)


def test_a_search_refuses_a_module_that_it_would_merge_and_not_score(tmp_path: Path) -> None:
    family = make_sentence_models(tmp_path)
    config = make_config(**family)
    problems = find_unscored_modules(open_pool(config), config.merge)
    assert [problem.where for problem in problems] == [str(family[name] / "2_Dense") for name in ("a", "b")]
    assert str(problems[0]).endswith(
        "2_Dense of vector 'a' differs from the base's, and a search does not score it. Keep the base's: "
        '`exclude: ["kind:embeddings", "kind:head", "kind:positions", "2_Dense/*"]`, or merge by weights.'
    )
    assert find_unscored_modules(open_pool(config), MergeConfig(exclude=("2_Dense/*",))) == []
    for name in ("a", "b"):
        (family[name] / DENSE).write_bytes((family["base"] / DENSE).read_bytes())
    assert find_unscored_modules(open_pool(config), config.merge) == []


def test_sentence_modules_that_cannot_be_merged_are_refused_by_name(tmp_path: Path) -> None:
    family = make_sentence_models(tmp_path)
    config = make_config(**family)
    save_file({"linear.weight": torch.zeros(4, 16), "linear.bias": torch.zeros(8)}, family["a"] / DENSE)
    with pytest.raises(AftermixError, match=r"2_Dense/linear.weight: vector 'a' has \(4, 16\), base has \(8, 16\)"):
        merge(config, tmp_path / "out")

    (family["a"] / DENSE).rename(family["a"] / "2_Dense" / "pytorch_model.bin")
    with pytest.raises(AftermixError, match=r"2_Dense: expected model.safetensors, found pytorch_model.bin"):
        merge(config, tmp_path / "out")

    (family["base"] / "modules.json").write_text('[{"path": "1_Pooling"}]')
    with pytest.raises(AftermixError, match="vector 'b' has a module with weights that the base lacks, 2_Dense"):
        merge(config, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_stored_vector_does_not_lose_the_weights_of_a_module(tmp_path: Path) -> None:
    family = make_sentence_models(tmp_path)
    with pytest.raises(AftermixError, match="2_Dense differs from the base's, and a vector holds the model's tensors"):
        diff(str(family["a"]), base=str(family["base"]), output=tmp_path / "vector")


def test_a_download_leaves_the_same_files_on_the_hub() -> None:
    from huggingface_hub.utils import filter_repo_objects

    wanted = [*TAKEN, "model-00001-of-00002.safetensors", "model.safetensors.index.json", DENSE, "config.json"]
    unwanted = ("README.md", ".gitattributes", "sub/.gitattributes", "trainer_state.json", "runs/x/y", "sub/a.bin")
    others = [name for name in LEFT if name not in ("helper.py", "quantize_config.json")]
    kept = filter_repo_objects([*wanted, *unwanted, *others], ignore_patterns=list_unwanted_patterns())
    assert list(kept) == wanted
