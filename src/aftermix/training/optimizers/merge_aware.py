"""MergeAware: gradients where merging would put the weights (MergOPT, algorithm 1)."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Literal, get_args

import torch

from aftermix.checkpoints.names import build_matcher
from aftermix.errors import TrainingError
from aftermix.training.optimizers.folded_weight import FoldedWeight
from aftermix.training.optimizers.local_shard import LocalShard, locate_shard
from aftermix.training.optimizers.low_precision import StillWeights
from aftermix.training.optimizers.noise import FreshNoise, NoiseSource, TableNoise
from aftermix.training.optimizers.perturbation import MergeDraw, Perturbation, move_shard
from aftermix.training.optimizers.perturbed import NamedParameters, PerturbedOptimizer
from aftermix.training.optimizers.restore import NoiseRegeneration, refuse_low_precision

COEFFICIENTS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6)
DRAWS, SEED, ORIGIN = "merge_aware_draws", "merge_aware_seed", "merge_aware_origin"
"""Keys under which the state dict keeps the stream's position, its seed, and theta_0."""

IN_FLOAT32 = "Keep the weights in float32, e.g. `model.float()` under autocast."

Distribution = Literal["laplace", "gaussian"]
OffsetForm = Literal["paper", "own_vector"]
Noise = Literal["fresh", "table"]
Memory = Literal["copy", "regenerate"]


class MergeAware(PerturbedOptimizer):
    """Evaluates loss and gradient at `theta + (K a - 1) z`, and steps with any base optimizer from `theta`.

    `a` is drawn from `coefficients`, `K` from 1 to `max_experts`, and `z` elementwise from a distribution with
    `location` and `scale` (in units of the weights), once per optimizer step::

        optimizer = MergeAware(torch.optim.AdamW(model.parameters(), lr=2e-5), scale=5e-4, seed=0)
        with optimizer.perturbed():
            loss(model(batch)).backward()
        optimizer.step()

    Source: MergOPT, equation 10 and algorithm 1. Departures: the noise is a function of `seed`, step, parameter and
    element, so it does not depend on sharding; `scale` of a Gaussian is its standard deviation. With `scale` and
    `location` 0 (and `offset: paper`) a run equals the base optimizer's to the bit.

    Options: `noise: table` is an approximation (:class:`TableNoise`); `memory: regenerate` draws the noise again in
    place of keeping a copy of the weights, and needs float32 masters. `scale` may be a mapping by name: what it lacks
    stays where it is, as do tensors that a pattern of `exclude` means. `named_parameters` (of the model) keys the noise
    by name; without it, or names that `base` knows, it is keyed by position in the groups. `folded` are the layers with
    adapters (:func:`~aftermix.training.optimizers.folded_weight.find_folded_weights`): in place of the adapters'
    factors their folded weights `W + scale B A` move by what is asked. `offset: own_vector` moves by
    `(a - 1)(theta - theta_0) + a sum_{j<K} z_j`, theta_0 being the weights now: it makes worse experts, and is kept for
    the runs that began with it. Warns once when rounding holds weights of bfloat16 or float16 where they are: a
    twentieth of them against the perturbation, or most against the base's step. Raises :class:`TrainingError` for
    options out of bounds.
    """

    def __init__(
        self,
        base: torch.optim.Optimizer,
        *,
        scale: float | Mapping[str, float] = 5e-4,
        location: float = 0.0,
        coefficients: Sequence[float] = COEFFICIENTS,
        max_experts: int = 7,
        distribution: Distribution = "laplace",
        exclude: Sequence[str] = (),
        offset: OffsetForm = "paper",
        noise: Noise = "fresh",
        memory: Memory = "copy",
        seed: int = 0,
        named_parameters: NamedParameters | None = None,
        folded: Sequence[FoldedWeight] = (),
    ) -> None:
        super().__init__(base)
        for each in scale.values() if isinstance(scale, Mapping) else (scale,):
            _refuse_unbounded(each, location, coefficients, max_experts, seed)
        _refuse_unknown(distribution=distribution, offset=offset, noise=noise, memory=memory)
        if memory == "regenerate" and offset == "own_vector":
            found = "holds the starting weights anyway, and cannot be combined with `memory: regenerate`"
            raise TrainingError("offset: own_vector", found, "Use `memory: copy`, or `offset: paper`.")

        self.scale = dict(scale) if isinstance(scale, Mapping) else float(scale)
        self.location = float(location)
        self.coefficients, self.max_experts = tuple(map(float, coefficients)), max_experts
        self.distribution, self.offset, self.noise, self.memory = distribution, offset, noise, memory

        self._names = {id(parameter): name for name, parameter in named_parameters or ()}
        self._name_by_place: dict[tuple[int, int], str] = {}
        self._origins: dict[str, torch.Tensor] = {}
        self._folded = tuple(folded)
        self._still = StillWeights()
        self._is_excluded = build_matcher(exclude, where="MergeAware: exclude")

        # In the groups, so that the base's state dict carries them.
        for group in self.param_groups:
            group[DRAWS], group[SEED] = 0, seed
        self._renew_noise()

        list(self._iterate_named())  # now, since sharding will replace the tensors that names are known of
        self._refuse_shared_names()
        named = [*self._name_by_place.values(), *(layer.name for layer in self._folded)]
        refuse_idle_patterns(exclude, named, where="MergeAware: exclude")
        if memory == "regenerate":
            refuse_low_precision({name: p.dtype for name, p in self.iterate_moved()})
        if offset == "own_vector":
            self._origins = {name: locate_shard(p).local.clone() for name, p in self._iterate_with_origin()}

    @property
    def draws(self) -> int:
        """Optimizer steps so far: the position of the noise stream."""
        return int(self.param_groups[0][DRAWS])

    @property
    def seed(self) -> int:
        """Seed of the noise stream."""
        return int(self.param_groups[0][SEED])

    @property
    def next_draw(self) -> MergeDraw:
        """Coefficient and number of experts of the step to come."""
        return MergeDraw.draw_for_step(
            self.seed, self.draws, coefficients=self.coefficients, max_experts=self.max_experts
        )

    def find_perturbation(self, name: str) -> Perturbation:
        """The move of tensor `name` in the step to come; nothing where `scale` is by tensor and lacks this one."""
        form = (
            MergeDraw.build_own_vector_perturbation
            if self.offset == "own_vector"
            else MergeDraw.build_paper_perturbation
        )
        if not isinstance(self.scale, dict):
            return form(self.next_draw, scale=self.scale, location=self.location)
        if name not in self.scale:
            return Perturbation(0.0, 0.0)
        return form(self.next_draw, scale=self.scale[name], location=self.location)

    def _renew_noise(self) -> None:
        kind = TableNoise if self.noise == "table" else FreshNoise
        self._source: NoiseSource = kind(self.distribution, self.seed)
        self._regeneration = NoiseRegeneration(self._source)

    def _iterate_named(self) -> Iterator[tuple[str, torch.Tensor]]:
        """The trainable parameters by name. A name stays with its place when sharding puts another tensor there."""
        for number, group in enumerate(self.param_groups):
            known = group.get("param_names")
            for index, parameter in enumerate(group["params"]):
                spare = known[index] if known else f"{number}.{index}"
                name = self._name_by_place.setdefault((number, index), self._names.get(id(parameter), spare))
                if parameter.requires_grad:
                    yield name, parameter

    def _refuse_shared_names(self) -> None:
        """Two parameters of one name would share noise, and one's copy would overwrite the other's."""
        shared = [name for name, count in Counter(self._name_by_place.values()).items() if count > 1]
        if shared:
            found = f"two parameters are named '{shared[0]}'"
            remedy = "Give each a name of its own, e.g. a prefix for each model."
            raise TrainingError("MergeAware: named_parameters", found, remedy)

    def _move(self) -> None:
        for name, parameter in self._iterate_with_origin():
            perturbation = self.find_perturbation(name)
            if not perturbation.is_nothing:
                shard = locate_shard(parameter)
                origin = self._find_origin(name, shard) if self.offset == "own_vector" else None
                self._move_tensor(name, shard, perturbation, origin=origin)

        for folded in self._iterate_folded():
            perturbation = self.find_perturbation(folded.name)
            if not perturbation.is_nothing:
                own = folded if perturbation.pull else None
                self._move_tensor(folded.name, locate_shard(folded.weight), perturbation, own=own)

        scale = "by tensor" if isinstance(self.scale, dict) else f"{self.scale:g}"
        cause = f"the perturbation (scale {scale})"
        self._still.tell("perturbation", step=self.draws + 1, cause=cause, remedy=IN_FLOAT32)

    def _move_tensor(
        self,
        name: str,
        shard: LocalShard,
        perturbation: Perturbation,
        *,
        origin: torch.Tensor | None = None,
        own: FoldedWeight | None = None,
    ) -> None:
        key = (name, self.draws)
        if self.memory == "regenerate" and shard.is_one_run:
            self._regeneration.move(shard, perturbation, key)
            return

        copy = self._copies.keep(name, shard.local)
        if own is not None:
            own.add_own_vector(shard, perturbation.pull)
        move_shard(shard, perturbation, self._source, key, origin=origin)
        if perturbation.draws and self._still.is_watched("perturbation", shard.local):
            self._still.count("perturbation", copy, shard.local)

    def iterate_moved(self) -> Iterator[tuple[str, torch.Tensor]]:
        """All that moves, by name: trainable parameters, and frozen weights in the place of their adapters' factors."""
        yield from self._iterate_with_origin()
        yield from ((folded.name, folded.weight) for folded in self._iterate_folded())

    def _iterate_with_origin(self) -> Iterator[tuple[str, torch.Tensor]]:
        """The trainable parameters that move themselves."""
        factors = {id(factor) for folded in self._folded for factor in folded.factors}
        for name, parameter in self._iterate_named():
            if id(parameter) not in factors and not self._is_excluded(name):
                yield name, parameter

    def _iterate_folded(self) -> Iterator[FoldedWeight]:
        yield from (folded for folded in self._folded if not self._is_excluded(folded.name))

    def _find_origin(self, name: str, shard: LocalShard) -> torch.Tensor:
        origin = self._origins.get(name)
        if origin is None:  # frozen until now, so it is where it started
            origin = self._origins[name] = shard.local.clone()
        elif origin.shape != shard.local.shape:  # sharded since: keep the local part alone
            origin = self._origins[name] = shard.copy_part(origin).to(shard.local.device)
        return origin

    def _bring_back(self) -> None:
        self._regeneration.restore()
        super()._bring_back()

    def _finish_step(self) -> None:
        self._watch_update()
        for group in self.param_groups:
            group[DRAWS] += 1

        for name, parameter in self._iterate_with_origin() if self.offset == "own_vector" else ():
            # A base makes a parameter's state at its first gradient, and takes a state with anything in it for made.
            state = self.base.state.get(parameter, {})
            if (state or parameter.grad is not None) and ORIGIN not in state:
                origin = self._find_origin(name, locate_shard(parameter))
                self.base.state[parameter][ORIGIN] = _shard_like(origin, parameter)

    def _watch_update(self) -> None:
        """Count the weights of few bits that the base's step left where they were, though they have a gradient."""
        for name, parameter in self._iterate_named():
            local, copy = locate_shard(parameter).local, self._copies.find(name)
            if parameter.grad is None or copy is None or copy.shape != local.shape:
                continue
            if self._still.is_watched("update", local):
                self._still.count("update", copy, local, meant=locate_shard(parameter.grad).local != 0)
        self._still.tell("update", step=self.draws + 1, cause="the optimizer's update", remedy=IN_FLOAT32)

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add parameters, which move like the others from the next step on."""
        super().add_param_group(param_group)
        if "_origins" in self.__dict__:
            # Not while the first groups come in from the base's constructor: names are not there yet.
            list(self._iterate_named())
            self._refuse_shared_names()

            group = self.param_groups[-1]
            group[DRAWS], group[SEED] = self.draws, self.seed
            if self.offset == "own_vector":
                self._origins |= {
                    n: locate_shard(p).local.clone() for n, p in self._iterate_with_origin() if n not in self._origins
                }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load a state with its noise stream.

        Raises :class:`TrainingError` when it is another optimizer's.
        """
        if not all(DRAWS in group and SEED in group for group in state_dict["param_groups"]):
            remedy = "Resume with the optimizer that made it."
            raise TrainingError("optimizer state", "was not saved by MergeAware (it has no noise stream)", remedy)

        super().load_state_dict(state_dict)
        self._renew_noise()
        for name, parameter in self._iterate_with_origin() if self.offset == "own_vector" else ():
            if ORIGIN in self.base.state.get(parameter, {}):
                # Not a copy: state and offset share one, as they do after a step.
                self._origins[name] = locate_shard(self.base.state[parameter][ORIGIN]).local

    @contextmanager
    def attached(self, model: torch.nn.Module) -> Iterator[None]:
        """While inside, every training forward pass of `model` runs, and its backward pass, at moved weights.

        For loops that are not ours, such as the Trainer's. The weights move at the first forward pass of a step, before
        any other hook (so before FSDP2 gathers them), and are restored by :meth:`step`, by an evaluation, by
        `model.state_dict()`, and on the way out, also by an error.
        """
        hooks: Any = model  # this registration carries no types
        handles = [
            model.register_forward_pre_hook(lambda *_: self._prepare_forward(model), prepend=True),
            hooks.register_state_dict_pre_hook(lambda *_: self.restore()),
        ]

        try:
            yield
        finally:
            for handle in handles:
                handle.remove()
            self.restore()
            self._has_gradient = False

    def _prepare_forward(self, model: torch.nn.Module) -> None:
        if model.training and torch.is_grad_enabled():
            self.move()
            self._has_gradient = True
        else:
            self.restore()


def refuse_idle_patterns(patterns: Sequence[str], names: Sequence[str], *, where: str) -> None:
    """Raise :class:`TrainingError` for one of `patterns` that means none of `names`, the tensors that noise moves."""
    for pattern in patterns:
        if not any(map(build_matcher([pattern], where=where), names)):
            found = f"'{pattern}' matches no tensor that is trained; there is, for example, {min(names)}"
            raise TrainingError(where, found, "Correct or remove the pattern.")


def _shard_like(local: torch.Tensor, parameter: torch.Tensor) -> torch.Tensor:
    """`local` as a tensor sharded like `parameter`, so that a distributed checkpoint stores it as such."""
    from torch.distributed.tensor import DTensor

    if not isinstance(parameter, DTensor):
        return local
    return DTensor.from_local(
        local, parameter.device_mesh, parameter.placements, shape=parameter.shape, stride=parameter.stride()
    )


def _refuse_unbounded(
    scale: float, location: float, coefficients: Sequence[float], max_experts: int, seed: int
) -> None:
    bounds = {
        "scale": (math.isfinite(scale) and scale >= 0, scale, "a finite number from 0"),
        "location": (math.isfinite(location), location, "a finite number"),
        "coefficients": (
            len(coefficients) > 0 and all(math.isfinite(value) for value in coefficients),
            tuple(coefficients),
            "at least one finite number",
        ),
        "max_experts": (isinstance(max_experts, int) and max_experts >= 1, max_experts, "a whole number from 1"),
        "seed": (isinstance(seed, int) and seed >= 0, seed, "a whole number from 0"),
    }

    for name, (is_sound, found, expected) in bounds.items():
        if not is_sound:
            raise TrainingError(f"MergeAware: {name}", f"expected {expected}, found {found}", "Correct the option.")


def _refuse_unknown(**options: str) -> None:
    kinds = {"distribution": Distribution, "offset": OffsetForm, "noise": Noise, "memory": Memory}
    for name, value in options.items():
        known = get_args(kinds[name])
        if value not in known:
            raise TrainingError(f"MergeAware: {name}", f"unknown {name} '{value}'", f"Use one of: {', '.join(known)}.")
