"""Models of other vocabularies, with real tokenizers: rows are aligned by token and never by number."""

from __future__ import annotations

import json
import random
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from aftermix.checkpoints.alignment.tokenizer_files import read_vocabulary
from aftermix.checkpoints.alignment.vocabulary import VocabularyView, unify_vocabularies
from aftermix.checkpoints.model import Span, TensorInfo, read_tensor
from aftermix.checkpoints.model_files import list_companion_remarks
from aftermix.checkpoints.pool import open_pool
from aftermix.checkpoints.reader import Checkpoint, open_checkpoint
from aftermix.config import Config, EvaluateConfig, ItemsConfig, MergeConfig, VectorConfig, load_config
from aftermix.errors import AftermixError
from aftermix.jobs.doctor.command import doctor
from aftermix.jobs.merge.command import merge

Family = dict[str, Path]
Tensors = dict[str, torch.Tensor]
EMBEDDING, HEAD = "model.embed_tokens.weight", "lm_head.weight"
NEW = ["<ja>", "<zh>"]
ROWS, GROWN, PADDED = 320, 322, 328


def weights(folder: Path) -> Tensors:
    return load_file(folder / "model.safetensors")


def edit_json(path: Path, **changes: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def filled(source: Path, target: Path) -> Path:
    """A copy of `source` whose tokenizer has a token for every row."""
    shutil.copytree(source, target)
    content = json.loads((target / "tokenizer.json").read_text())
    known = content["model"]["vocab"]
    content["model"]["vocab"] = known | {f"filler{row}": row for row in range(len(known), ROWS)}
    (target / "tokenizer.json").write_text(json.dumps(content))
    return target


def resized(source: Path, target: Path, *, tokens: list[str], rows: int) -> Path:
    """A copy of `source` with added tokens and so many rows, as transformers makes it."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    torch.manual_seed(rows)
    tokenizer = AutoTokenizer.from_pretrained(source)
    tokenizer.add_tokens(tokens)
    model = AutoModelForCausalLM.from_pretrained(source)
    model.resize_token_embeddings(rows, mean_resizing=False)
    model.save_pretrained(target)
    tokenizer.save_pretrained(target)
    return target


def reordered(source: Path, target: Path) -> Path:
    """A copy of `source` whose tokenizer numbers its ordinary tokens otherwise; its rows with them."""
    shutil.copytree(source, target)
    path = target / "tokenizer.json"
    content = json.loads(path.read_text())
    special = {token["content"] for token in content["added_tokens"]}
    old = content["model"]["vocab"]
    movable = sorted(token for token in old if token not in special)
    numbers = [old[token] for token in movable]
    random.Random(0).shuffle(numbers)
    new = old | dict(zip(movable, numbers, strict=True))
    content["model"]["vocab"] = new
    path.write_text(json.dumps(content))
    tensors = weights(target)
    for name in (EMBEDDING, HEAD):
        rows = tensors[name].clone()
        for token, number in new.items():
            rows[number] = tensors[name][old[token]]
        tensors[name] = rows
    save_file(tensors, target / "model.safetensors", metadata={"format": "pt"})
    return target


@pytest.fixture(scope="module")
def models(untied_family: Family, tmp_path_factory: pytest.TempPathFactory) -> Family:
    """An untied base; `b`, of its vocabulary; `grown` and `padded` from `b`; `other`, `b` in another order."""
    folder = tmp_path_factory.mktemp("vocabularies")
    base, b, c = (filled(untied_family[name], folder / name) for name in ("base", "b", "c"))
    return {
        "base": base,
        "b": b,
        "c": c,
        "grown": resized(b, folder / "grown", tokens=NEW, rows=GROWN),
        "padded": resized(b, folder / "padded", tokens=[], rows=PADDED),
        "other": reordered(b, folder / "other"),
    }


def config(models: Family, *, vocabulary: str | None = None, exclude: tuple[str, ...] = (), **vectors: str) -> Config:
    entries = {name: VectorConfig(model=str(models[model]), weight=0.5) for name, model in vectors.items()}
    section = MergeConfig(vocabulary=vocabulary, exclude=exclude)
    return Config(base=str(models["base"]), vectors=entries, merge=section)


def refusal(configuration: Config) -> str:
    with pytest.raises(AftermixError) as raised:
        open_pool(configuration)
    return str(raised.value)


def test_added_tokens_are_refused_with_both_remedies(models: Family) -> None:
    assert refusal(config(models, x="grown")) == (
        "merge.vocabulary: vector 'x' has 322 tokens in 322 rows, base has 320 tokens in 320 rows; 2 tokens differ, "
        "first '<ja>' (row 320 and none), '<zh>' (row 321 and none). Add to `merge`: `vocabulary: base` (the base's "
        "rows and tokenizer) or `vocabulary: x` (that vector's)."
    )


def test_another_order_is_refused_although_shapes_agree(models: Family) -> None:
    found = refusal(config(models, x="other"))
    assert "vector 'x' has 320 tokens in 320 rows, base has 320 tokens in 320 rows; " in found
    assert "tokens differ, first " in found


def test_padding_alone_is_refused_too(models: Family) -> None:
    found = refusal(config(models, x="padded"))
    assert "vector 'x' has 320 tokens in 328 rows, base has 320 tokens in 320 rows. Add to `merge`: " in found


def test_without_a_tokenizer_other_rows_are_refused(models: Family, tmp_path: Path) -> None:
    mute = tmp_path / "mute"
    shutil.copytree(models["grown"], mute)
    (mute / "tokenizer.json").unlink()
    family = models | {"mute": mute}
    for policy in (None, "base", "x"):
        found = refusal(config(family, x="mute", vocabulary=policy))
        assert f"Copy its tokenizer.json into {mute}, so that rows can be aligned by token." in found, policy
    same = tmp_path / "same"
    shutil.copytree(models["b"], same)
    (same / "tokenizer.json").unlink()
    pool = open_pool(config(family | {"same": same}, x="same"))
    notes = [str(note) for note in list_companion_remarks(pool)]
    assert f"{same}: vector 'x' has no tokenizer files. Its rows are taken to be the base's tokens." in notes


def test_a_policy_that_names_nothing_is_refused(models: Family) -> None:
    assert "merge.vocabulary: there is no vector 'zz'. Name one of: base, x." in refusal(
        config(models, x="grown", vocabulary="zz")
    )
    entries = {name: VectorConfig(model=str(models[name])) for name in ("b", "grown")}
    without = Config(vectors=entries, merge=MergeConfig(method="linear", vocabulary="base"))
    assert "merge.vocabulary: is 'base', and there is no base. Name one of the vectors." in refusal(without)


def test_one_vocabulary_needs_no_view(models: Family) -> None:
    for policy in (None, "base", "x"):
        pool = open_pool(config(models, x="b", y="c", vocabulary=policy))
        assert all(isinstance(model, Checkpoint) for model in (pool.base, *pool.experts.values()))


@pytest.mark.parametrize("name", ["grown", "padded", "other"])
def test_the_bases_vocabulary_gives_what_the_bases_tokens_give(models: Family, name: str, tmp_path: Path) -> None:
    """Each of these is `b` stored otherwise, so the merge must be that with `b`, to the byte."""
    wanted = merge(config(models, x="b"), tmp_path / "wanted")
    said: list[str] = []
    made = merge(config(models, x=name, vocabulary="base"), tmp_path / "made", log=said.append)
    assert (made / "model.safetensors").read_bytes() == (wanted / "model.safetensors").read_bytes()
    for file in ("config.json", "tokenizer.json"):
        assert (made / file).read_bytes() == (models["base"] / file).read_bytes()
    dropped = 2 if name == "grown" else 0
    assert said == [
        "vector 'x' has 2 tensors aligned by token to the vocabulary of the base: 320 of 320 rows are its own, 0 have "
        f"difference 0, {dropped} tokens of its own are dropped"
    ]


def test_a_vectors_vocabulary_against_a_merge_by_hand(models: Family, tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    made = merge(config(models, x="grown", y="other", vocabulary="x"), tmp_path / "made")
    base, grown, plain = weights(models["base"]), weights(models["grown"]), weights(models["b"])
    wanted = {}
    for name, tensor in base.items():
        if name in (EMBEDDING, HEAD):
            new = grown[name][ROWS:]
            tensor, other = torch.cat([tensor, new]), torch.cat([plain[name], new])
        else:
            other = plain[name]
        wanted[name] = tensor + (0.5 * (grown[name] - tensor) + 0.5 * (other - tensor))
    found = weights(made)
    assert all(found[name].equal(tensor) for name, tensor in wanted.items())
    assert found[EMBEDDING][ROWS:].equal(grown[EMBEDDING][ROWS:])
    assert json.loads((made / "config.json").read_text())["vocab_size"] == GROWN
    tokenizer = AutoTokenizer.from_pretrained(made)
    assert tokenizer("<ja> the sum")["input_ids"][0] == ROWS
    reference = tmp_path / "reference"
    shutil.copytree(models["grown"], reference)
    save_file(wanted, reference / "model.safetensors", metadata={"format": "pt"})
    tokens = torch.tensor([tokenizer("<zh> the numbers <ja>")["input_ids"]])
    ours, theirs = (AutoModelForCausalLM.from_pretrained(folder)(tokens).logits for folder in (made, reference))
    assert ours.shape[-1] == GROWN
    assert ours.equal(theirs)
    again = merge(load_config(made / "aftermix.yaml"), tmp_path / "again")
    assert (again / "model.safetensors").read_bytes() == (made / "model.safetensors").read_bytes()
    assert "vector 'y' has 2 tensors aligned" in "\n".join(json.loads((made / "lock.json").read_text())["alignment"])


def test_doctor_tells_how_rows_were_aligned(models: Family) -> None:
    found = doctor(config(models, x="grown", y="b", vocabulary="x"))
    assert found.problems == []
    rows = "320 of 322 rows are its own, 2 have"
    told = "has 2 tensors aligned by token to the vocabulary of vector 'x': " + rows
    assert f"base {told} vector 'x''s own values, 0 tokens of its own are dropped" in found.facts
    assert f"vector 'y' {told} difference 0, 0 tokens of its own are dropped" in found.facts
    assert not any("vocabularies" in note.found for note in found.notes)


@pytest.mark.parametrize("policy", ["x", "base"])
def test_doctor_builds_prompts_for_the_rows_of_the_result(
    policy: str, models: Family, tasks: Path, tmp_path: Path
) -> None:
    """A token that a vector added is one of the result where the recipe takes that vector's vocabulary."""
    folder = tmp_path / "tasks"
    shutil.copytree(tasks, folder)
    path = folder / "colours.yaml"
    path.write_text(path.read_text().replace('doc_to_text: "', f'doc_to_text: "{NEW[0]} '))
    evaluate = EvaluateConfig(
        tasks=["colours"], include_path=str(folder), items=ItemsConfig(search=20, select=10), max_length=20
    )
    found = doctor(config(models, x="grown", y="b", vocabulary=policy).model_copy(update={"evaluate": evaluate}))
    assert found.problems == []
    assert [note for note in found.notes if "prompts that lose their beginning" in note.found]


def test_a_token_that_only_two_vectors_have_is_moved_by_neither(models: Family, tmp_path: Path) -> None:
    second = resized(models["c"], tmp_path / "second", tokens=NEW[::-1], rows=GROWN)
    family = models | {"second": second}
    found = weights(merge(config(family, x="grown", y="second", vocabulary="x"), tmp_path / "made"))
    grown, other, base = (weights(family[name])[EMBEDDING] for name in ("grown", "second", "base"))
    assert found[EMBEDDING][ROWS:].equal(grown[ROWS:])
    wanted = base + (0.5 * (grown[:ROWS] - base) + 0.5 * (other[:ROWS] - base))
    assert found[EMBEDDING][:ROWS].equal(wanted)


def test_padding_is_matched_by_row_number(models: Family, tmp_path: Path) -> None:
    wide = resized(models["base"], tmp_path / "wide", tokens=[], rows=PADDED)
    family = models | {"base": wide}
    found = weights(merge(config(family, x="padded", y="b", vocabulary="base"), tmp_path / "made"))[EMBEDDING]
    base, padded, plain = (weights(family[name])[EMBEDDING] for name in ("base", "padded", "b"))
    padding = slice(ROWS, PADDED)
    assert found[padding].equal(base[padding] + 0.5 * (padded[padding] - base[padding]))
    assert found[:ROWS].equal(base[:ROWS] + (0.5 * (padded[:ROWS] - base[:ROWS]) + 0.5 * (plain - base[:ROWS])))


def test_tokens_that_the_vector_put_into_padding_rows(untied_family: Family, tmp_path: Path) -> None:
    """The base has 288 tokens in 320 rows; the vector names two of the rest. Its shapes are the base's."""
    taught = resized(untied_family["b"], tmp_path / "taught", tokens=NEW, rows=ROWS)
    family = dict(untied_family) | {"taught": taught}
    assert "first '<ja>' (row 288 and none), '<zh>' (row 289 and none)" in refusal(config(family, x="taught"))
    base, own = (weights(family[name])[EMBEDDING] for name in ("base", "taught"))
    rows = {
        policy: weights(merge(config(family, x="taught", vocabulary=policy), tmp_path / policy))[EMBEDDING]
        for policy in ("base", "x")
    }
    assert rows["base"][288:290].equal(base[288:290])
    assert rows["x"][288:290].equal(own[288:290])
    assert rows["x"][290:].equal(base[290:] + 0.5 * (own[290:] - base[290:]))
    assert rows["base"][:288].equal(rows["x"][:288])


def test_excluded_embeddings_are_a_note(models: Family) -> None:
    exclude = ("embed_tokens", "lm_head")
    found = doctor(config(models, x="other", exclude=exclude))
    assert found.problems == []
    notes = [str(note) for note in found.notes]
    told = "tokenizer.json: vector 'x' and the base have different vocabularies. The embeddings are excluded; the"
    assert f"{told} result keeps the base's." in notes

    # Other rows keep the base's values like all that is excluded.
    found = doctor(config(models, x="grown", exclude=exclude))
    assert found.problems == []
    told = "vector 'x' has other shapes in what is excluded, which keeps the base's values: "
    assert [fact for fact in found.facts if fact.startswith(told)]
    assert "tokens differ" in refusal(config(models, x="other", exclude=("embed_tokens",)))

    # A vector that is refused for its tokens is not told that they do not matter.
    found = doctor(config(models, x="other"))
    assert [problem.where for problem in found.problems] == ["merge.vocabulary"]
    assert not [note for note in found.notes if "The embeddings are excluded" in str(note)]


def test_baselines_of_a_search_would_merge_excluded_embeddings(models: Family) -> None:
    from aftermix.config import SearchConfig

    base = config(models, x="other", exclude=("embed_tokens", "lm_head"))
    measured = base.model_copy(update={"evaluate": EvaluateConfig.model_validate({"tasks": ["none"]})})
    assert "tokens differ" in refusal(measured)
    open_pool(measured.model_copy(update={"search": SearchConfig(baselines=False)}))


def test_the_tokenizer_is_that_of_the_rows(models: Family, tmp_path: Path) -> None:
    exclude = ("embed_tokens", "lm_head")

    def tokenizer(vocabulary: str | None, *, excluded: tuple[str, ...] = ()) -> bytes:
        entry = VectorConfig(model=str(models["other"]), role="instruction")
        section = MergeConfig(vocabulary=vocabulary, exclude=excluded)
        name = f"{vocabulary}-{len(excluded)}"
        made = merge(Config(base=str(models["base"]), vectors={"it": entry}, merge=section), tmp_path / name)
        return (made / "tokenizer.json").read_bytes()

    ours, theirs = ((models[name] / "tokenizer.json").read_bytes() for name in ("base", "other"))
    assert tokenizer("it") == theirs
    assert tokenizer("base") == ours
    assert tokenizer(None, excluded=exclude) == ours
    entry = VectorConfig(model=str(models["other"]), role="instruction")
    pool = open_pool(Config(base=str(models["base"]), vectors={"it": entry}, merge=MergeConfig(exclude=exclude)))
    assert "the tokenizer of 'it' numbers the base's tokens otherwise" in "\n".join(
        map(str, list_companion_remarks(pool))
    )


def test_models_are_averaged_by_token_without_a_base(models: Family, tmp_path: Path) -> None:
    def averaged(vocabulary: str | None, second: str) -> Tensors:
        entries = {name: VectorConfig(model=str(models[name]), weight=0.5) for name in ("c", second)}
        section = MergeConfig(method="linear", vocabulary=vocabulary)
        return weights(merge(Config(vectors=entries, merge=section), tmp_path / f"{vocabulary}-{second}"))

    wanted, found = averaged(None, "b"), averaged("c", "other")
    assert all(found[name].equal(tensor) for name, tensor in wanted.items())
    grown, whole = averaged("grown", "grown"), weights(models["grown"])
    assert grown[EMBEDDING][:ROWS].equal(wanted[EMBEDDING])
    assert grown[EMBEDDING][ROWS:].equal(whole[EMBEDDING][ROWS:])


def test_tied_embeddings_grow_together(family: Family, tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM

    grown = resized(family["b"], tmp_path / "grown", tokens=NEW, rows=GROWN)
    tied = {"base": family["base"], "grown": grown}
    made = merge(config(tied, x="grown", vocabulary="x"), tmp_path / "made")
    model = AutoModelForCausalLM.from_pretrained(made)
    assert model.get_input_embeddings().weight.shape == (GROWN, 32)
    assert model.lm_head.weight.data_ptr() == model.get_input_embeddings().weight.data_ptr()
    assert weights(made)[EMBEDDING][ROWS:].equal(weights(grown)[EMBEDDING][ROWS:])


def test_vocabularies_of_other_tokenizers(tmp_path: Path) -> None:
    assert read_vocabulary(tmp_path) is None
    (tmp_path / "vocab.json").write_text(json.dumps({"a": 0, "b": 1}))
    (tmp_path / "added_tokens.json").write_text(json.dumps({"<c>": 2}))
    assert read_vocabulary(tmp_path) == {"a": 0, "b": 1, "<c>": 2}
    unigram = {"model": {"type": "Unigram", "vocab": [["a", 0.0], ["b", -1.5]]}, "added_tokens": None}
    (tmp_path / "tokenizer.json").write_text(json.dumps(unigram))
    assert read_vocabulary(tmp_path) == {"a": 0, "b": 1}
    (tmp_path / "tokenizer.json").write_text("[]")
    with pytest.raises(AftermixError, match=r"tokenizer\.json: expected a JSON object, found list\. Copy the"):
        read_vocabulary(tmp_path)


def test_an_evaluation_lives_with_the_vectors_vocabulary(models: Family, tasks: Path, tmp_path: Path) -> None:
    """What is scored in memory is the model that `merge` writes."""
    from aftermix.jobs.evaluate.command import evaluate

    items = {"search": 8, "select": 8, "test": 8}
    wanted = {"tasks": ["colours"], "include_path": str(tasks), "items": items, "threads": 1}
    measured = EvaluateConfig.model_validate(wanted)
    merged = config(models, x="grown", y="b", vocabulary="x").model_copy(update={"evaluate": measured})
    scored = evaluate(merged, split="search")
    made = merge(merged, tmp_path / "made")
    assert evaluate(Config(base=str(made), evaluate=measured), split="search") == scored


@dataclass(frozen=True)
class Adapted:
    """A model that is known by its difference from the base, which is 0.25 everywhere."""

    inner: Checkpoint

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inner, name)

    def info(self, name: str) -> TensorInfo:
        return self.inner.info(name)

    def difference(self, name: str, bounds: Span) -> torch.Tensor | None:
        return torch.full((bounds[1] - bounds[0],), 0.25) if "norm" not in name else None


def test_stored_differences_keep_theirs_by_token(models: Family) -> None:
    base, grown = open_checkpoint(models["base"]), open_checkpoint(models["grown"])
    experts: Any = {"x": grown, "y": Adapted(base)}
    view = unify_vocabularies(base, experts, "x", excluded=lambda _: False).experts["y"]
    assert isinstance(view, VocabularyView)
    found = view.difference(EMBEDDING, (0, GROWN * 32))
    assert found is not None
    assert found.view(GROWN, 32)[:ROWS].eq(0.25).all()
    assert found.view(GROWN, 32)[ROWS:].eq(0).all()
    missing = view.difference("model.norm.weight", (0, 32))
    assert missing is not None
    assert missing.eq(0).all()


@settings(max_examples=80)
@given(data=st.data())
def test_any_bounds(data: st.DataObject, models: Family) -> None:
    policy = data.draw(st.sampled_from(["base", "x", "y"]))
    pool = open_pool(config(models, x="grown", y="other", z="padded", vocabulary=policy))
    view = data.draw(st.sampled_from([model for model in (pool.base, *pool.experts.values()) if model]))
    name = data.draw(st.sampled_from([EMBEDDING, HEAD, "model.norm.weight"]))
    whole = read_tensor(view, name)
    if name == EMBEDDING and isinstance(view, VocabularyView):
        rows, absent = view.rows[name], read_tensor(view.frame, name)
        own = read_tensor(view.inner, name)
        wanted = torch.stack([own[row] if row >= 0 else absent[n] for n, row in enumerate(rows.tolist())])
        assert whole.equal(wanted)
    low = data.draw(st.integers(0, whole.numel()))
    high = data.draw(st.integers(low, whole.numel()))
    assert view.read_block(name, (low, high)).equal(whole.flatten()[low:high])
