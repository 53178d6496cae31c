"""Forward passes over batches of tokens: the whole model at once, or layer by layer with all batches at each."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import nn

from aftermix.saliency.observer import LayerObserver
from aftermix.saliency.streamed_model import StreamedModel

Batches = Sequence[torch.Tensor]
"""Token numbers (B, T), without padding."""
Masks = Sequence[torch.Tensor] | None
"""For each batch (B, T): true where a token counts; None: all count."""
Bar = Callable[[Iterable[Any], int, str], Iterable[Any]]
"""(items, total, unit) -> the items, shown as progress."""


def run_whole_model(
    live: StreamedModel, batches: Batches, observer: LayerObserver, *, bar: Bar, masks: Masks = None
) -> None:
    """Fill the model and run every batch through it."""
    live.fill()
    observer.watch(live.model)
    with torch.no_grad(), observer.shorten_head(live.model), observer:
        for index, tokens_BT in enumerate(bar(batches, len(batches), "batch")):
            observer.count_only(masks[index] if masks is not None else None)
            live.model(tokens_BT, use_cache=False)


def run_layer_by_layer(
    live: StreamedModel, batches: Batches, observer: LayerObserver, *, bar: Bar, masks: Masks = None
) -> None:
    """As :func:`run_whole_model`, with the values of one decoder layer in memory at a time.

    For each layer the model's own forward is run again with the layers before it replaced by what they gave, and ended
    when the layer has run: each layer is called by the model's own code, with the masks and positions it makes. What
    the layers gave, one activation for each batch, is kept. Only the arithmetic around the layers is repeated.
    """
    name, layers = live.find_layers()
    live.fill(lambda parameter: not parameter.startswith(f"{name}."))
    replay = _Replay(live, layers)

    given: list[Any] = [None] * len(batches)
    with torch.no_grad(), replay:
        for number in bar(range(len(layers)), len(layers), "layer"):
            prefix = f"{name}.{number}."
            live.fill(lambda parameter, prefix=prefix: parameter.startswith(prefix))  # type: ignore[misc]
            observer.watch(layers[number], prefix=prefix)
            for index, tokens_BT in enumerate(batches):
                observer.count_only(masks[index] if masks is not None else None)
                given[index] = replay.run_layer(tokens_BT, number, given[index], observer)
            live.free(lambda parameter, prefix=prefix: parameter.startswith(prefix))  # type: ignore[misc]

        observer.watch(live.model)
        with observer.shorten_head(live.model):
            for index, tokens_BT in enumerate(batches):
                observer.count_only(masks[index] if masks is not None else None)
                replay.run_rest(tokens_BT, given[index], observer)


class _LayerDone(Exception):  # noqa: N818 - no error: it ends a forward pass early
    """Carries what a layer gave out of the model's forward."""

    def __init__(self, given: Any) -> None:
        self.given = given


class _Replay:
    """The forwards of `layers`, exchanged while the context lasts."""

    def __init__(self, live: StreamedModel, layers: nn.ModuleList) -> None:
        self._live = live
        self._layers = layers
        self._forwards = [layer.forward for layer in layers]
        self._calls = 0
        self._current = 0
        self._given: Any = None
        self._observer: LayerObserver | None = None

    def __enter__(self) -> _Replay:
        for number, layer in enumerate(self._layers):
            layer.forward = self._wrap_forward(number)
        return self

    def __exit__(self, *_: object) -> None:
        for layer, forward in zip(self._layers, self._forwards, strict=True):
            layer.forward = forward

    def run_layer(self, tokens_BT: torch.Tensor, number: int, given: Any, observer: LayerObserver) -> Any:
        """Return the output of layer `number`, when the one before it gave `given`."""
        self._current, self._given, self._observer = number, given, observer
        try:
            self._live.model(tokens_BT, use_cache=False)
        except _LayerDone as done:
            return done.given
        except (KeyError, TypeError, AttributeError, IndexError, ValueError) as error:
            reason = f"{type(error).__name__}: {error}"
            raise self._live.explain_unstreamable(
                f"layer {number} needs more of the others than what they return; {reason}"
            ) from error
        raise self._live.explain_unstreamable(f"layer {number} is not called")

    def run_rest(self, tokens_BT: torch.Tensor, given: Any, observer: LayerObserver) -> None:
        """Run all that comes after the last layer, which gave `given`."""
        self._current, self._given, self._observer, self._calls = len(self._layers), given, None, 0
        with observer:
            self._live.model(tokens_BT, use_cache=False)
        if self._calls != len(self._layers):
            raise self._live.explain_unstreamable(f"its {len(self._layers)} layers are called {self._calls} times")

    def _wrap_forward(self, number: int) -> Callable[..., Any]:
        def forward(*args: Any, **kwargs: Any) -> Any:
            self._calls += 1
            if number < self._current:
                return self._given
            if self._observer is None or number > self._current:
                raise self._live.explain_unstreamable(f"layer {number} is called before layer {self._current}")
            with self._observer:
                raise _LayerDone(self._forwards[number](*args, **kwargs))

        return forward
