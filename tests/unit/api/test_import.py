"""`import aftermix` is cheap, and its names are what they are called."""

from __future__ import annotations

import subprocess
import sys

import aftermix
import aftermix.search.space
from aftermix.mixture import Surrogate

HEAVY = ("torch", "transformers", "pandas", "lm_eval", "optuna", "numpy", "pydantic")


def test_importing_the_package_loads_nothing_heavy() -> None:
    code = f"import sys, aftermix; dir(aftermix); print([name for name in {HEAVY} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_all_public_names_exist() -> None:
    assert all(getattr(aftermix, name) is not None for name in aftermix.__all__)
    assert set(aftermix.__all__) <= set(dir(aftermix))
    assert aftermix.__version__.count(".") == 2


def test_packages_that_are_functions_stay_packages() -> None:
    assert callable(aftermix.search)
    assert callable(aftermix.mixture)
    assert aftermix.search.space.SearchSpace.__name__ == "SearchSpace"  # type: ignore[attr-defined]
    assert Surrogate.__module__ == "aftermix.mixture.surrogates.surrogate"


def test_an_unknown_name_is_an_attribute_error() -> None:
    assert not hasattr(aftermix, "merge_everything")
