"""A base and its distribution vectors, to look at, to merge and to search."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from aftermix.api.job_files import refuse_missing_extras
from aftermix.api.manners import preserve_process
from aftermix.api.merged import Merged
from aftermix.api.sections import build_pool_config, extend_config
from aftermix.config import Config, load_config
from aftermix.config.places import GivenWeight
from aftermix.errors import Problem


class Pool:
    """A base and the experts trained from it, as `base:` and `vectors:` of the file.

    Nothing is opened until something is asked for.

    >>> math = {"model": "experts/math", "tokens": 2_000_000}
    >>> Pool("models/base", {"ja": "experts/ja", "math": math})
    Pool('base', vectors=['ja', 'math'])
    """

    def __init__(self, base: str | Path | None, vectors: Mapping[str, Any], **sections: Any) -> None:
        """`base`: folder or hub name, None for `method: linear`. `vectors`: name -> folder, hub name, or a mapping with
        the keys of a vector in the file. `sections`: further sections of the file (`merge={...}`, `evaluate={...}`).

        Raises :class:`.ConfigError` or :class:`.ManyProblemsError` for values that the file would be refused for.
        """
        self.config: Config = build_pool_config(base, vectors, sections)

    @classmethod
    def read(cls, file: str | Path) -> Pool:
        """The pool of a YAML file, with all its sections."""
        return cls.from_config(load_config(Path(file)))

    @classmethod
    def from_config(cls, config: Config) -> Pool:
        """The pool of a configuration, with all its sections."""
        pool = cls.__new__(cls)
        pool.config = config
        return pool

    @property
    def vectors(self) -> list[str]:
        """Names of the vectors."""
        return list(self.config.vectors)

    @preserve_process()
    def problems(self) -> list[Problem]:
        """Everything that would stop a job on this pool, as `aftermix doctor` tells it; empty where all is well.

        All values of all checkpoints are read. Each has `where`, `found` and `remedy`.
        """
        refuse_missing_extras(self.config, what="Pool.problems()")
        from aftermix.jobs.doctor.command import doctor

        return doctor(self.config).problems

    def merge(self, weights: Mapping[str, GivenWeight], method: str | None = None, **options: Any) -> Merged:
        """The merge at `weights`; a vector that is not named weighs 0, and one may weigh otherwise from place to place.

        >>> rules = [{"match": "self_attn", "value": 0.3}, {"match": "mlp", "value": [0.2, 0.8]}, {"value": 0.5}]
        >>> Pool("models/base", {"ja": "experts/ja"}).merge({"ja": rules})
        Merged(task_arithmetic: ja=self_attn 0.3, mlp 0.2 to 0.8, else 0.5)

        `method` and `options` are keys of `merge:` in the file, the method's own (`density`, ...) among them; left out,
        the pool's hold. Nothing is read until the result is asked for its tensors, its model, or to be saved. Raises
        :class:`AftermixError` for an unknown vector, method or option.
        """
        given = options if method is None else {"method": method, **options}
        config = self.config
        if method is not None and method != config.merge.method:  # options of another method do not carry over
            kept = config.merge.model_dump(exclude_unset=True, exclude={"method", *config.merge.options})
            config = config.model_copy(update={"merge": type(config.merge).model_validate(kept)})
        return Merged(extend_config(config, {"merge": given}, sections=["merge"], weights=weights))

    def __repr__(self) -> str:
        base = Path(self.config.base).name if self.config.base else None
        return f"Pool({base!r}, vectors={self.vectors})"

    def _repr_html_(self) -> str:
        from aftermix.report.notebook.tables import tabulate_pool

        return tabulate_pool(self.config)
