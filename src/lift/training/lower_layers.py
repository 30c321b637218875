"""What the layers below the adapter give is computed once, and read in later epochs.

Those layers are frozen and nothing that is trained lies below them, so the state in which a token enters the adapter's
first layer depends on the tokens up to it alone. While a batch is computed, the layers on one side of that cut are
replaced by what is known of them and the model's own forward runs the others, so embeddings, positions, masks and
sliding windows are the model's business on both sides.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from lift.adapters.adapter import Adapter
from lift.batches import Batch
from lift.models.shared_prefix import can_share
from lift.prompts import IGNORED
from lift.training.state_store import UNKNOWN, StateStore
from lift.training.tree_attention import tree_attention

STORE_BYTES = 2 << 30
_TRIAL_TOKENS = 8


@contextlib.contextmanager
def reusing_lower_layers(model: Any, adapter: Adapter, bound_bytes: int = STORE_BYTES) -> Iterator[LowerLayers | None]:
    """Inside the block, the layers of `model` below `adapter`, with at most `bound_bytes` of their states on the disk.

    None where the adapter begins at the first layer, and where the model cannot be cut: its layers are not found, or a
    short trial does not give, bit for bit, what it gives in one piece. The states are gone after the block.
    """
    cut, width = (None, 0) if adapter.first_layer < 1 else _find_cut(model, adapter.first_layer)
    if cut is None:
        yield None
        return
    with StateStore(width, cut.dtype, bound_bytes) as store:
        yield LowerLayers(cut, store)


class LowerLayers:
    """The frozen layers below an adapter, and the states that are known of them."""

    def __init__(self, cut: _Cut, store: StateStore) -> None:
        self._cut = cut
        self._store = store
        self.computed_tokens = 0  # that passed the lower layers so far

    @property
    def most_tokens(self) -> int:
        """Tokens whose states can be kept."""
        return self._store.most_rows

    @contextlib.contextmanager
    def given(self, batch: Batch) -> Iterator[None]:
        """Inside the block the model computes this batch, and nothing else, from the adapter's first layer on."""
        with self._cut.upper(self.states(batch)):
            yield

    def states(self, batch: Batch) -> torch.Tensor:
        """The states in which the T nodes enter the adapter's first layer, on the model's device. [T, d]

        Nodes that are not known are computed, together with their ancestors, and kept unless their examples are drawn
        anew for every epoch.
        """
        rows = self._store.rows(batch)
        missing = [node for node, row in enumerate(rows) if row == UNKNOWN]
        device = self._cut.model.device
        if not missing:
            return self._store.read(rows).to(device)
        nodes = _with_ancestors(missing, batch.parents)
        self.computed_tokens += len(nodes)
        computed = self._cut.lower(batch if len(nodes) == batch.tokens else batch.part(nodes))  # [nodes, d]
        if len(missing) == batch.tokens:
            states = computed
        else:
            place = {node: index for index, node in enumerate(nodes)}
            known = [node for node, row in enumerate(rows) if row != UNKNOWN]
            states = computed.new_empty(batch.tokens, computed.shape[1])  # [T, d]
            states[known] = self._store.read([rows[node] for node in known]).to(device)
            states[missing] = computed[[place[node] for node in missing]]
        self._store.add(batch, rows, _recurring(batch), states)
        return states


@dataclass(frozen=True, eq=False)
class _Cut:
    """A model cut in front of layer `first` of its `layers`, whose states are of type `dtype`.

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

    def _pass(self, *args: Any, **options: Any) -> Any:
        return self._returned(_states(args, options))

    def _returned(self, states: torch.Tensor) -> Any:
        return (states,) if self.in_tuple else states


def _find_cut(model: Any, first: int) -> tuple[_Cut | None, int]:
    """The cut in front of layer `first` and the width of its states, if there the two parts make the whole."""
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
    cut = _Cut(model, layers, first, entering.dtype, isinstance(output, tuple))
    lower = cut.lower(batch)  # [T, d]
    with torch.no_grad(), cut.upper(lower):
        upper = _run(model, batch)  # [1, T, d]
    return (cut, lower.shape[-1]) if torch.equal(lower, entering[0]) and torch.equal(upper, whole) else (None, 0)


def _run(model: Any, batch: Batch) -> torch.Tensor:
    """The last hidden states, without the language-modelling head. [1, T, d]"""
    inputs = batch.inputs(model.device, model.dtype)
    with tree_attention(model, batch, inputs["attention_mask"]):
        states: torch.Tensor = model.base_model(**inputs, use_cache=False).last_hidden_state
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


def _with_ancestors(nodes: Sequence[int], parents: Sequence[int]) -> list[int]:
    """The nodes and all their ancestors, ascending."""
    found: set[int] = set()
    for node in nodes:
        ancestor = node
        while ancestor >= 0 and ancestor not in found:
            found.add(ancestor)
            ancestor = parents[ancestor]
    return sorted(found)


def _recurring(batch: Batch) -> list[bool]:
    """Which nodes belong to an example that comes again in later epochs."""
    recurring = [False] * batch.tokens
    ends, end = batch.predict_at.tolist(), 0
    for example in batch.members:
        end += sum(label != IGNORED for label in example.labels)
        node = ends[end - 1]
        while not example.drawn_anew and node >= 0 and not recurring[node]:
            recurring[node] = True
            node = batch.parents[node]
    return recurring


def _chain(vocabulary: int) -> Batch:
    """A row of a few tokens for a trial; nothing is predicted in it."""
    ids = torch.arange(1, _TRIAL_TOKENS + 1) * 7 % vocabulary  # [T]
    nothing = torch.zeros(0, dtype=torch.long)
    parents = tuple(range(-1, _TRIAL_TOKENS - 1))
    return Batch(ids, torch.arange(_TRIAL_TOKENS), parents, nothing, nothing, torch.zeros(0), ())
