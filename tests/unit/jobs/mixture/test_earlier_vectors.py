"""Vectors of an earlier mixture run beside those of a file: the same, gone or new, and which merges that leaves."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from aftermix.config import Config, MergeConfig, parse_config
from aftermix.jobs.mixture.earlier.vectors import VectorMatch, is_same_base, match_vectors
from aftermix.jobs.mixture.points import PointSampler
from aftermix.jobs.mixture.problem import MixtureProblem
from aftermix.merging.methods import bind
from aftermix.runs.input_records import LockedModelRecord, LockRecord, SeedsRecord

PLAIN = MergeConfig()


def locked(**contents: str) -> LockRecord:
    """A lock whose vectors, and base, have these contents wherever they lie."""
    inputs = {
        "base" if name == "base" else f"vectors.{name}": LockedModelRecord(
            model=f"/somewhere/{name}/{len(contents)}", files={"model.safetensors": content}
        )
        for name, content in contents.items()
    }
    return LockRecord(inputs=inputs, seeds=SeedsRecord(merge=0, search=0), versions={})


def match(theirs: LockRecord, ours: LockRecord, merge: MergeConfig = PLAIN) -> VectorMatch:
    names = tuple(key.removeprefix("vectors.") for key in ours.inputs if key != "base")
    return match_vectors(theirs, ours, names, method=bind(merge))


def test_a_new_domain_weighs_nothing_in_every_earlier_merge() -> None:
    found = match(locked(ja="1", math="2"), locked(ja="1", code="3", math="2"))
    assert (found.new, dict(found.gone), found.is_whole) == (("code",), {}, False)
    assert found.translate_weights({"ja": 0.25, "math": 0.75}) == {"ja": 0.25, "code": 0.0, "math": 0.75}


def test_a_domain_that_is_gone_leaves_the_merges_in_which_it_weighed_nothing() -> None:
    found = match(locked(ja="1", math="2", code="3"), locked(ja="1", math="2"))
    assert found.gone == {"code": "is no vector of this file"}
    assert found.translate_weights({"ja": 0.5, "math": 0.5, "code": 0.0}) == {"ja": 0.5, "math": 0.5}
    assert found.translate_weights({"ja": 0.5, "math": 0.4, "code": 0.1}) is None
    assert found.find_obstacle({"ja": 0.5, "math": 0.4, "code": 0.1}) == "code"


def test_a_domain_that_is_split_is_gone_and_its_parts_are_new() -> None:
    found = match(locked(ja="1", code="3"), locked(ja="1", python="4", rust="5"))
    assert (found.new, found.gone) == (("python", "rust"), {"code": "is no vector of this file"})
    assert found.translate_weights({"ja": 1.0, "code": 0.0}) == {"ja": 1.0, "python": 0.0, "rust": 0.0}
    assert found.translate_weights({"ja": 0.5, "code": 0.5}) is None


def test_a_vector_of_another_content_under_its_old_name_is_gone_and_new() -> None:
    found = match(locked(ja="1", math="2"), locked(ja="9", math="2"))
    assert (found.new, found.gone) == (("ja",), {"ja": "has another content by now"})
    assert found.translate_weights({"ja": 0.0, "math": 1.0}) == {"ja": 0.0, "math": 1.0}


def test_contents_count_and_not_names_but_where_entries_are_drawn_by_name() -> None:
    theirs, ours = locked(ja="1", math="2"), locked(japanese="1", math="2")
    found = match(theirs, ours)
    assert (dict(found.same), found.new, found.is_whole) == ({"ja": "japanese", "math": "math"}, (), False)
    assert found.translate_weights({"ja": 0.25, "math": 0.75}) == {"japanese": 0.25, "math": 0.75}
    for method in ("dare_linear", "della", "obim"):
        assert match(theirs, ours, MergeConfig(method=method)).gone == {"ja": "is no vector of this file"}


def test_of_equal_contents_the_name_decides() -> None:
    found = match(locked(a="1", b="1"), locked(b="1", c="1"))
    assert (found.same, found.is_whole) == ({"a": "c", "b": "b"}, False)
    swapped = match(locked(a="1", b="2"), locked(a="2", b="1"))
    assert swapped.translate_weights({"a": 0.25, "b": 0.75}) == {"a": 0.75, "b": 0.25}


def test_a_base_is_known_by_its_content() -> None:
    assert is_same_base(locked(base="0", ja="1"), locked(base="0"))
    assert not is_same_base(locked(base="0"), locked(base="1"))
    assert not is_same_base(locked(base="0"), locked(ja="1"))


def read_file(*domains: str, points: int = 20) -> Config:
    return parse_config(
        {
            "base": "base",
            "vectors": {name: {"model": name} for name in domains},
            "evaluate": {"tasks": ["one", "two"]},
            "mixture": {"points": points, "repeats": 0},
        },
        where="aftermix.yaml",
        folder=Path(),
    )


def planned(points: int, known: np.ndarray, *domains: str) -> list[tuple[float, ...]]:
    problem = MixtureProblem.build_flat(read_file(*domains, points=points), fitted="tasks")
    return [tuple(row_K.tolist()) for _, row_K in PointSampler(problem, known).planned]


def design(points: int, *domains: str) -> list[tuple[float, ...]]:
    return planned(points, np.zeros((0, len(domains))), *domains)


def test_points_on_the_face_of_known_domains_are_replaced_and_all_others_measured() -> None:
    old = np.array(design(12, "ja", "math"))
    known = np.hstack([old, np.zeros((12, 1))])
    whole, left = design(20, "ja", "math", "code"), planned(20, known, "ja", "math", "code")
    assert len(whole) == 20
    assert left == [row for row in whole if row[2] >= 1e-3]
    assert 10 < len(left) < 20
    # Fewer known merges than the design has on that face: what is missing there is measured too.
    few = planned(20, known[:3], "ja", "math", "code")
    assert len(few) == 20 - 3
    assert [row for row in few if row[2] >= 1e-3] == left
    assert set(few) <= set(whole)


def test_corners_are_single_experts_to_the_bit() -> None:
    corners = [row for row in design(12, "ja", "math", "code") if max(row) == 1.0]
    assert corners == [(1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, 1.0)]


@pytest.mark.parametrize(("method", "taken"), [("task_arithmetic", True), ("dare_linear", True), ("ties", False)])
def test_a_weight_of_a_rounding_error_is_none_where_it_cannot_count(method: str, taken: bool) -> None:
    """Under TIES' disjoint mean a vector of any weight decides alone where no other has an entry."""
    found = match(locked(ja="1", math="2"), locked(ja="1"), MergeConfig(method=method))
    assert (found.translate_weights({"ja": 1.0, "math": 1.1e-16}) == {"ja": 1.0}) is taken
    assert found.translate_weights({"ja": 1.0, "math": 0.0}) == {"ja": 1.0}
    assert found.translate_weights({"ja": 0.999, "math": 0.001}) is None


@pytest.mark.parametrize("count", [0, 5, 20, 30])
def test_known_merges_with_a_share_of_every_domain_count_among_the_points(count: int) -> None:
    known = np.random.default_rng(0).dirichlet([1.0, 1.0, 1.0], size=count)
    whole = design(20, "ja", "math", "code")
    assert planned(20, known, "ja", "math", "code") == whole[: max(0, 20 - count)]
