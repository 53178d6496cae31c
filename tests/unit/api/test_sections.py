"""Keyword arguments become what the file would have said, or are refused as the file would be."""

from __future__ import annotations

from pathlib import Path

import pytest

import aftermix
from aftermix.api.sections import extend_config, place_options
from aftermix.errors import AftermixError


def build_pool(**sections: object) -> aftermix.Pool:
    vectors = {"ja": "/m/ja", "math": {"model": "/m/math", "range": (0.1, 0.9), "tokens": 2e6}}
    return aftermix.Pool("/m/base", vectors, **sections)


def test_a_key_goes_to_the_first_section_that_has_it() -> None:
    placed = place_options({"seed": 3, "tasks": ["a"], "method": "ties"}, ["search", "evaluate", "merge"])
    assert placed == {"search": {"seed": 3}, "evaluate": {"tasks": ["a"]}, "merge": {"method": "ties"}}


def test_a_single_key_counts_before_its_section() -> None:
    assert place_options({"trials": 5, "search": {"trials": 9, "top": 1}}, ["search"]) == {
        "search": {"trials": 5, "top": 1}
    }
    assert place_options({"search": {"trials": 9, "top": 1}, "trials": 5}, ["search"]) == {
        "search": {"trials": 5, "top": 1}
    }


def test_what_the_pool_has_stays_where_nothing_is_said() -> None:
    pool = build_pool(search={"trials": 7, "startup": 4}, merge={"method": "ties", "density": 0.4})
    config = extend_config(pool.config, {"trials": 9}, sections=["search"])
    assert (config.search.trials, config.search.startup) == (9, 4)
    assert (config.merge.method, config.merge.options) == ("ties", {"density": 0.4})


def test_a_preset_decides_what_nobody_wrote() -> None:
    config = extend_config(build_pool(search={"trials": 7}).config, {"preset": "paper"}, sections=["search"])
    assert (config.search.strategy, config.search.trials) == ("tpe", 7)


def test_models_to_compare_are_given_by_name_and_join_those_of_the_pool() -> None:
    pool = build_pool(compare={"old": {"model": "/m/old"}, "even": {"weights": {"ja": 0.5}}})
    rivals = {"even": {"weights": {"ja": 0.5, "math": 0.5}}, "mixed": {"train": {"tokens": 500}}}
    config = extend_config(pool.config, {"compare": rivals, "trials": 3}, sections=["search", "evaluate"])
    assert list(config.compare) == ["old", "even", "mixed"]
    assert config.compare["even"].weights == {"ja": 0.5, "math": 0.5}
    assert config.search.trials == 3
    with pytest.raises(AftermixError, match="`compare` is no key of `train`"):
        extend_config(pool.config, {"compare": rivals}, sections=["train"])


def test_ranges_and_weights_of_vectors() -> None:
    config = extend_config(build_pool().config, {}, sections=[], ranges={"ja": (0.0, 1.5)})
    assert {name: vector.bounds for name, vector in config.vectors.items()} == {"ja": (0.0, 1.5), "math": (0.1, 0.9)}
    # A weight that is given is bound by no range, and what is not named weighs nothing.
    config = extend_config(build_pool().config, {}, sections=[], weights={"math": 1.2})
    assert {name: vector.weight for name, vector in config.vectors.items()} == {"ja": 0.0, "math": 1.2}


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"trails": 5}, "`trails` is no key of `search` or `evaluate`. Did you mean `trials`?"),
        ({"trials": -1}, "search.trials: Input should be greater than or equal to 0, found -1"),
        ({"evaluate": {"batch_sise": 4, "tasks": ["a"]}}, "Did you mean `batch_size`?"),
    ],
)
def test_bad_keys_and_values_are_refused(options: dict[str, object], text: str) -> None:
    with pytest.raises(AftermixError) as refused:
        extend_config(build_pool().config, options, sections=["search", "evaluate"])
    assert text in str(refused.value)


def test_strange_vectors_are_refused() -> None:
    with pytest.raises(AftermixError, match=r"ranges: expected vectors of the pool \(ja, math\), found 'jp'"):
        extend_config(build_pool().config, {}, sections=[], ranges={"jp": (0, 1)})
    with pytest.raises(AftermixError, match=r"weights: expected vectors of the pool \(ja, math\), found 'jp'"):
        build_pool().merge({"jp": 0.3})
    with pytest.raises(AftermixError, match=r"vectors\.ja: expected a path, a hub name or a mapping .* found float"):
        aftermix.Pool("/m/base", {"ja": 0.3})


def test_a_configuration_reads_back(tmp_path: Path) -> None:
    config = build_pool(merge={"method": "ties", "density": 0.4}, evaluate={"tasks": ["a"]}).config
    config.write(tmp_path / "file.yaml")
    assert aftermix.Config.read(tmp_path / "file.yaml") == config
    assert aftermix.Pool.read(tmp_path / "file.yaml").config == config
