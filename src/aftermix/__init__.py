"""Train one expert per dataset. Decide the mixture afterwards.

    import aftermix

    pool = aftermix.Pool("models/base", {"ja": "experts/ja", "math": "experts/math"})
    pool.merge({"ja": 0.4, "math": 0.3}, method="ties", density=0.3).save("out")
    run = aftermix.search(pool, tasks=["gsm8k"], output="runs/ja-math")
    run.best.weights, run.trials, run.predict({"ja": 0.2, "math": 0.5})

Nothing heavy is imported before it is used. `aftermix.search` and `aftermix.mixture` are packages, too, and both are
called like functions.
"""

from __future__ import annotations

import sys
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from aftermix.api.merged import Merged
    from aftermix.api.pool import Pool
    from aftermix.api.stored_run import Run, open_run
    from aftermix.api.studies.study import Study
    from aftermix.api.work import compare, evaluate, mixture, search, train
    from aftermix.config import Config
    from aftermix.errors import AftermixError

    __version__: str

HOMES = {
    "AftermixError": "aftermix.errors",
    "Config": "aftermix.config",
    "Merged": "aftermix.api.merged",
    "Pool": "aftermix.api.pool",
    "Run": "aftermix.api.stored_run",
    "Study": "aftermix.api.studies.study",
    "compare": "aftermix.api.work",
    "evaluate": "aftermix.api.work",
    "open_run": "aftermix.api.stored_run",
    "train": "aftermix.api.work",
}
CALLED_PACKAGES = ("search", "mixture")
"""Packages that share their name with a function of :mod:`aftermix.api.work`."""

__all__ = [
    "AftermixError",
    "Config",
    "Merged",
    "Pool",
    "Run",
    "Study",
    "__version__",
    "compare",
    "evaluate",
    "mixture",
    "open_run",
    "search",
    "train",
]


class CallablePackage(ModuleType):
    """A package that, called, is the function of its name."""

    def __call__(self, *args: Any, **keywords: Any) -> Any:
        """Call the job of this name: see :mod:`aftermix.api.work`."""
        job = getattr(_load_module("aftermix.api.work"), self.__name__.rpartition(".")[2])
        return job(*args, **keywords)


class PublicPackage(ModuleType):
    """The package `aftermix`: two of its subpackages are callable, from whichever import they come."""

    def __setattr__(self, name: str, value: Any) -> None:
        if name in CALLED_PACKAGES and type(value) is ModuleType:
            value.__class__ = CallablePackage
        super().__setattr__(name, value)


def __getattr__(name: str) -> Any:
    """A public name at its first use."""
    if name == "__version__":
        from importlib.metadata import version

        return version("aftermix")
    if name in HOMES:
        return getattr(_load_module(HOMES[name]), name)
    if name in CALLED_PACKAGES:
        return _load_module(f"aftermix.{name}")
    raise AttributeError(f"module 'aftermix' has no attribute '{name}'")


def _load_module(name: str) -> ModuleType:
    """A module, whose libraries draw from no stream of numbers that the user has seeded: Rich does while it loads."""
    generator = sys.modules.get("random")
    state = generator.getstate() if generator is not None else None
    module = import_module(name)
    if generator is not None:
        generator.setstate(state)
    return module


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


sys.modules[__name__].__class__ = PublicPackage
