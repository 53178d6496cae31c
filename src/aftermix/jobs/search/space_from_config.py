"""Space that `search.over` and the vectors' ranges span, checked against the method before any weight is read."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace

from aftermix.config import Config, MergeConfig, SearchedSettings
from aftermix.config import Dimension as Given
from aftermix.config.places import list_range_rules, require_number
from aftermix.errors import AftermixError, Problem, SearchError, join_place, refuse_if_any
from aftermix.jobs.search.settings import SCALE, apply_settings, leaves_vectors_as_they_are
from aftermix.merging.merge import Merger
from aftermix.merging.recipe import MergeRecipe
from aftermix.merging.rules.places import refuse_unfit_patterns
from aftermix.runs.reader import RunContents
from aftermix.runs.records import BestRecord
from aftermix.runs.trials import Setting, Settings
from aftermix.search.space import ChoiceSet, Dimension, NumberRange, SearchSpace

ORDERS = ("rotation", "first", "last")
"""`first` and `last` stand for every order with one vector there and the others by name."""
BY_VECTOR = ("ratio", "density")
INSIDE = 0.382
"""Place in a range at which a value between its ends is tried: no simple fraction."""


def build_space(config: Config) -> SearchSpace:
    """Build the space that a search of `config` looks through.

    Raises :class:`AftermixError` with every fault of `search.over`: an option that the method does not take, a value
    outside its bounds, an order of other vectors, `ratio` for a method that shares nothing out, nothing to search.
    """
    MergeRecipe.from_config(
        config.merge, vectors=config.vectors, for_search=True
    )  # faults of the file itself come first
    space, over = SearchSpace.from_vectors(config.vectors), config.search.over
    if not over.weights and not over.settings:
        found = "false leaves nothing to search"
        raise SearchError("search.over.weights", found, "Name a setting to search, or leave the key out.")
    if not over.settings and not space.searched_weights:
        fixed = ", ".join(f"{name} at {low:g}" for name, (low, _) in space.bounds.items())
        raise SearchError("vectors", f"every range holds its weight fixed ({fixed})", "Give one of them a wider range.")

    if not over.weights:
        fixed_weights = {name: _read_fixed(config, name) for name in config.vectors}
        space = replace(space, bounds={name: (weight, weight) for name, weight in fixed_weights.items()}, vectors={})
    refuse_if_any(
        [problem for option, given in over.settings.items() for problem in _check_shape(option, given, config)]
    )

    settings = {name: kind for option in over.settings for name, kind in _build_dimensions(option, over, config)}
    refuse_if_any(list(dict.fromkeys(_find_misfits(config, settings))))

    shares = tuple(name for name in settings if name.startswith("ratio."))
    return replace(space, settings=settings, shares=shares, own=read_own_settings(config, settings))


def refuse_unfit_ranges(config: Config, merger: Merger) -> None:
    """Raise :class:`MergeError` for rules of a range that leave out a tensor that moves, or of which one moves none."""
    if not config.search.over.weights:
        return
    for name, vector in config.vectors.items():
        patterns = [rule.match for rule in list_range_rules(vector.range)]
        if patterns:
            moved = (merger.resolve_tied_name(info.name) for info in merger.pool.layout if merger.moves(info))
            refuse_unfit_patterns(patterns, moved, where=join_place("vectors", name, "range"))


def _read_fixed(config: Config, vector: str) -> float:
    return require_number(config.vectors[vector].weight, where=join_place("vectors", vector, "weight"), who="a search")


def choose_run_settings(run: RunContents, space: SearchSpace) -> Settings:
    """Searched settings of the winner of `run`; before there is one those that the file has."""
    return dict(run.best.settings) if isinstance(run.best, BestRecord) else space.choose_start()


def describe_space(config: Config, space: SearchSpace) -> str:
    """`3 dimensions: it [0.3, 1], ja [0, 1], density [0.1, 0.9]; every trial reads the models anew`"""
    method = MergeRecipe.from_config(config.merge, vectors=config.vectors, for_search=True).method
    once = leaves_vectors_as_they_are(method, space.settings)
    cost = "vectors are prepared once" if once else "every trial reads the models anew"
    return f"{space.dimensions} dimension{'s' if space.dimensions > 1 else ''}: {space}; {cost}"


def read_own_settings(config: Config, names: Iterable[str]) -> Settings:
    """Values that `config` itself gives to the settings called `names`."""
    recipe = MergeRecipe.from_config(config.merge, vectors=config.vectors, for_search=True)
    method, settings = recipe.method, dict[str, Setting]()

    for name in names:
        option, _, vector = name.partition(".")
        if option == SCALE:
            settings[name] = recipe.scale
        elif method.is_exclusive and option in BY_VECTOR:
            ratios = method.compute_ratios(list(config.vectors))
            settings[name] = ratios[vector or next(iter(ratios))]
        else:
            settings[name] = (method.collect_options(vector) if vector else method.options)[option]
    return settings


def _check_shape(option: str, given: Given, config: Config) -> Iterator[Problem]:
    """Faults of a dimension whatever the method."""
    where = f"search.over.{option}"
    if option in MergeConfig.model_fields:
        yield Problem(where, "is no option of a method", "Search options of the method, `lambda`, `ratio` or `order`.")
    if given.each and option not in BY_VECTOR:
        yield Problem(f"{where}.each", "holds for `density` and `ratio` alone", "Remove it.")

    own = [name for name, vector in config.vectors.items() if vector.density is not None]
    if option == "density" and not given.each and own:
        remedy = "Remove it there, or search a density of each vector with `each: true`."
        yield Problem(where, f"vector '{own[0]}' has a density of its own", remedy)

    placed = [name for name, vector in config.vectors.items() if isinstance(vector.density, tuple)]
    if option == "density" and given.each and placed:
        found = f"vector '{placed[0]}' has a density that depends on the place"
        yield Problem(where, found, "Give it one number, or leave its density out of the search.")

    if given.choices is not None:
        yield from _check_choices(where, option, given)
    elif option == "order":
        yield Problem(where, "is no list of choices", f"List orders: {', '.join(ORDERS)}, or [NAME, ...].")
    else:
        yield from _check_range(where, given)


def _check_choices(where: str, option: str, given: Given) -> Iterator[Problem]:
    if (given.low, given.high, given.step) != (None, None, None):
        yield Problem(where, "has a range and choices", "Give `low` and `high`, or a list of choices.")
    if not given.choices:
        yield Problem(where, "has no choices", "List at least one.")
    if option == "ratio":
        yield Problem(where, "is a list of choices", "Give `low` and `high`, perhaps with `step`.")

    unknown = [choice for choice in given.choices or () if not isinstance(choice, tuple) and choice not in ORDERS]
    if option == "order" and unknown:
        yield Problem(where, f"there is no order {unknown[0]!r}", f"There are: {', '.join(ORDERS)}, and [NAME, ...].")


def _check_range(where: str, given: Given) -> Iterator[Problem]:
    low, high, step = given.low, given.high, given.step
    if low is None or high is None:
        yield Problem(where, "has no `low` and `high`", "Give both, or a list of choices.")
    elif low >= high:
        yield Problem(where, f"expected low < high, found low {low:g} and high {high:g}", "Correct one of them.")
    elif step is not None and step > high - low:
        yield Problem(f"{where}.step", f"expected at most high - low = {high - low:g}, found {step:g}", "Lower it.")


def _build_dimensions(option: str, over: SearchedSettings, config: Config) -> Iterator[tuple[str, Dimension]]:
    """The dimensions that one key stands for, by name of the setting."""
    given = over.settings[option]
    kind: Dimension
    if given.choices is not None:
        values = given.choices if option != "order" else _expand_orders(given.choices, sorted(config.vectors))
        kind = ChoiceSet(tuple(dict.fromkeys(values)))
    else:
        assert given.low is not None  # noqa: S101 - checked by its shape; for the type checker
        assert given.high is not None  # noqa: S101
        kind = NumberRange(given.low, given.high, given.step)

    if option == "ratio" or given.each:
        yield from ((f"{option}.{vector}", kind) for vector in config.vectors)
    else:
        yield option, kind


def _expand_orders(choices: tuple[Setting, ...], names: list[str]) -> Iterator[Setting]:
    for choice in choices:
        if choice == "first":
            yield from ((name, *(other for other in names if other != name)) for name in names)
        elif choice == "last":
            yield from ((*(other for other in names if other != name), name) for name in names)
        else:
            yield choice


def _find_misfits(config: Config, settings: Mapping[str, Dimension]) -> Iterator[Problem]:
    """Faults that the method finds in the settings, each tried by itself at its ends or choices; each fault once."""
    for name, kind in settings.items():
        values = (kind.low, kind.top) if isinstance(kind, NumberRange) else kind.values
        problems = [problem for value in values for problem in _try_value(config, name, value)]
        if isinstance(kind, NumberRange) and not problems:
            problems = list(_try_value(config, name, _choose_inside(kind)))

        for problem in dict.fromkeys(problems):
            yield Problem(f"search.over.{name.partition('.')[0]}", problem.found, problem.remedy)


def _choose_inside(kind: NumberRange) -> float:
    """A number that is not an end: an option that takes whole numbers may have its ends whole by chance."""
    return kind.low + (kind.step or (kind.high - kind.low) * INSIDE)


def _try_value(config: Config, name: str, value: Setting) -> tuple[Problem, ...]:
    option, _, vector = name.partition(".")
    if vector and not (isinstance(value, int | float) and 0 < value <= 1):
        return (Problem(option, f"expected numbers above 0 and at most 1, found {value}", "Correct the range."),)
    try:
        changed = apply_settings(config, {name: value})
        method = MergeRecipe.from_config(changed.merge, vectors=changed.vectors, for_search=True).method
        if option == SCALE and method.operands == "models":
            return (Problem(option, f"{method.name} has no vector to scale", "Remove it."),)

        idle = {"ratio", "order"} & {"ratio", *method.options}
        if not method.is_exclusive and option in idle:
            remedy = "Remove it, or choose another method."
            return (Problem(option, f"{method.name} has no use for it", remedy),)
        if option == "order":
            method.refuse_other_order(list(config.vectors))
        if method.is_exclusive and option == "density":
            method.compute_ratios(list(config.vectors))
    except AftermixError as error:
        return error.problems
    except ValueError as error:  # a value that no option of any method takes
        return (Problem(option, f"{value!r} is no value of it ({error})", "Correct it."),)
    return ()
