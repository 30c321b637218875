"""A model split in two: the frozen layers below an adapter, and those from its first one on.

While a batch is computed, the layers on one side of the split are replaced by what is known of them and the model's own
forward runs the others, so embeddings, positions, masks and sliding windows are the model's business on both sides.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from transformers import Cache, DynamicCache

from lift.inference.kv_cache import can_share
from lift.packing.forward import batch_inputs
from lift.packing.trie import Batch

_TRIAL_TOKENS = 8


@dataclass(frozen=True, eq=False)
class ModelSplit:
    """A model split in front of layer `first` of its `layers`, whose states are of type `dtype`.

    `in_tuple`: whether a layer returns its states in a tuple.
    """

    model: Any
    layers: Sequence[Any]
    first: int
    dtype: torch.dtype
    in_tuple: bool

    @torch.no_grad()
    def lower(self, batch: Batch) -> torch.Tensor:
        """The states that enter layer `first`, without gradient. [T, d]"""
        entering: list[torch.Tensor] = []

        def keep(*args: Any, **options: Any) -> Any:
            entering.append(_states(args, options))
            return self._returned(entering[0])

        with _replaced(self.layers[self.first :], [keep] + [self._pass] * (len(self.layers) - self.first - 1)):
            _run(self.model, batch)
        return entering[0][0]

    @contextlib.contextmanager
    def upper(self, states: torch.Tensor) -> Iterator[None]:
        """Inside the block the layers below `first` are skipped, and it gets `states` [T, d]."""

        def give(*_args: Any, **_options: Any) -> Any:
            return self._returned(states[None])  # [1, T, d]

        with _replaced(self.layers[: self.first], [self._pass] * (self.first - 1) + [give]):
            yield

    def keys_and_values_of_trial(self) -> list[torch.Tensor]:
        """As keys_and_values of a row of a few tokens, for their shapes."""
        trial = _chain(self.model.get_input_embeddings().num_embeddings)
        return self.keys_and_values(trial, self.lower(trial))

    @torch.no_grad()
    def keys_and_values(self, batch: Batch, states: torch.Tensor) -> list[torch.Tensor]:
        """Keys and values, in turn, of each layer from `first` on, for nodes with these `states`. [1, K, T, d] each"""
        cache = DynamicCache()
        with self.upper(states):
            _run(self.model, batch, cache)
        layers: list[Any] = cache.layers[self.first :]
        return [side for layer in layers for side in (layer.keys, layer.values)]

    def _pass(self, *args: Any, **options: Any) -> Any:
        return self._returned(_states(args, options))

    def _returned(self, states: torch.Tensor) -> Any:
        return (states,) if self.in_tuple else states


def find_split(model: Any, first: int) -> tuple[ModelSplit | None, int]:
    """The split in front of layer `first` and the width of its states, if there the two parts make the whole."""
    config = model.config.get_text_config(decoder=True)
    count = config.num_hidden_layers
    stacks = [each for each in model.base_model.modules() if isinstance(each, torch.nn.ModuleList)]
    stacks = [stack for stack in stacks if len(stack) == count]
    # upper layers that read the keys of lower ones need more than their states
    shared_keys = getattr(config, "num_kv_shared_layers", 0)
    if len(stacks) != 1 or first >= count or shared_keys or not can_share(model):
        return None, 0
    layers = list(stacks[0])
    seen: list[tuple[Any, Any]] = []

    def look(_layer: Any, args: Any, options: Any, output: Any) -> None:
        seen.append((_states(args, options), output))

    batch = _chain(model.get_input_embeddings().num_embeddings)
    handle = layers[first].register_forward_hook(look, with_kwargs=True)
    try:
        with torch.no_grad():
            whole = _run(model, batch)  # [1, T, d]
    finally:
        handle.remove()
    if len(seen) != 1 or not isinstance(seen[0][0], torch.Tensor) or seen[0][0].shape != whole.shape:
        return None, 0
    entering, output = seen[0]
    split = ModelSplit(model, layers, first, entering.dtype, isinstance(output, tuple))
    lower = split.lower(batch)  # [T, d]
    with torch.no_grad(), split.upper(lower):
        upper = _run(model, batch)  # [1, T, d]
    return (split, lower.shape[-1]) if torch.equal(lower, entering[0]) and torch.equal(upper, whole) else (None, 0)


def _run(model: Any, batch: Batch, cache: Cache | None = None) -> torch.Tensor:
    """The last hidden states, without the language-modelling head; keys and values go into `cache`. [1, T, d]"""
    with batch_inputs(model, batch) as inputs:
        states: torch.Tensor = model.base_model(
            **inputs, past_key_values=cache, use_cache=cache is not None
        ).last_hidden_state
    return states


def _states(args: tuple[Any, ...], options: dict[str, Any]) -> Any:
    """The hidden states among a layer's arguments."""
    return args[0] if args else options.get("hidden_states")


@contextlib.contextmanager
def _replaced(modules: Sequence[Any], forwards: Sequence[Callable[..., Any]]) -> Iterator[None]:
    """Inside the block each module runs this forward in place of its own."""
    before = [vars(module).get("forward") for module in modules]  # accelerate puts one of its own there
    try:
        for module, forward in zip(modules, forwards, strict=True):
            module.forward = forward
        yield
    finally:
        for module, own in zip(modules, before, strict=True):
            if own is None:
                vars(module).pop("forward", None)
            else:
                module.forward = own


def _chain(vocabulary: int) -> Batch:
    """A row of a few tokens for a trial; nothing is predicted in it."""
    ids = torch.arange(1, _TRIAL_TOKENS + 1) * 7 % vocabulary  # [T]
    nothing = torch.zeros(0, dtype=torch.long)
    parents = tuple(range(-1, _TRIAL_TOKENS - 1))
    return Batch(ids, torch.arange(_TRIAL_TOKENS), parents, nothing, nothing, torch.zeros(0), ())
