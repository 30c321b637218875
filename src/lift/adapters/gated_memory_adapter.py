"""Gated Memory on a model: hooks read each query where it is made and mix each head before the output projection.

No class of a model is patched and no forward replaced: a hook behind the query projection keeps the query, a hook in
front of the output projection mixes. Padding, caches and batches need nothing of their own, as memory and gate are
functions of one token's query; the exact gate's log-sum comes from the attention under way (log_sum_exp.py).
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch

from lift.adapters.adapter import Adapter
from lift.adapters.attention_sites import AttentionSite, attention_sites
from lift.adapters.gated_memory import GatedMemory
from lift.errors import AdapterError
from lift.packing.log_sum_exp import forget_log_sum, last_log_sum, start_watching, stop_watching
from lift.recipes.recipe import AdapterSettings

KIND = "gated-memory"
_FORMAT_VERSION = 1
_SETTINGS = ("layers", "upper_share", "width", "gate", "start")
_CALIBRATION_TOKENS = 64


class _Layer:
    """One attention with its memory, and what is known of the forward pass that is under way."""

    def __init__(self, site: AttentionSite, memory: GatedMemory, exact: bool) -> None:
        self.site = site
        self.memory = memory
        self.exact = exact
        self.recording = False
        self.gate: torch.Tensor | None = None  # [B, T, H]
        self._rows: torch.Tensor | None = None  # [rows], indices into the batch; None is all
        self._query: torch.Tensor | None = None  # [B, T, H, d]
        self._hooks: list[torch.utils.hooks.RemovableHandle] = []

    def switch(self, rows: tuple[int, ...] | None) -> None:
        """Hook in for these rows of the batch (None: all), or out (empty)."""
        self._rows = torch.tensor(rows, device=self.memory.read_in.device) if rows else None
        wanted = rows is None or bool(rows)
        if wanted and not self._hooks:
            self._hooks = [
                self.site.query_projection.register_forward_hook(self._keep_query),
                self.site.output_projection.register_forward_pre_hook(self._mix_heads),
                self.site.module.register_forward_hook(self._forget),
            ]
        elif not wanted:
            for handle in self._hooks:
                handle.remove()
            self._hooks = []

    def _keep_query(self, _projection: Any, _args: Any, projected: torch.Tensor) -> None:
        self._query = self.site.query(projected)  # [B, T, H, d]

    def _mix_heads(self, _projection: Any, args: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
        query, heads = self._query, args[0]  # heads: [B, T, H d]
        if query is None:
            raise AdapterError(f"{self.site.path}: expected a query before the output; choose a low-rank adapter")
        attended = heads.view(query.shape)  # [B, T, H, d]
        log_sum = last_log_sum(self.site.module) if self.exact else None  # [B, T, H]
        if self._rows is None:
            mixed, gate = self.memory(query, attended, log_sum)
            result = mixed.to(heads.dtype)
        else:
            rows = self._rows
            mixed, gate = self.memory(query[rows], attended[rows], None if log_sum is None else log_sum[rows])
            result = attended.index_copy(0, rows, mixed.to(heads.dtype))
        if self.recording:
            self.gate = gate
        return result.reshape(heads.shape), *args[1:]

    def _forget(self, _attention: Any, _args: Any, _output: Any) -> None:
        self._query = None
        if self.exact:
            forget_log_sum(self.site.module)


class GatedMemoryAdapter(Adapter):
    """A memory and a gate for each query head of the chosen layers; its parameters are float32."""

    def __init__(self, model: Any, settings: AdapterSettings, seed: int, name: str) -> None:
        super().__init__(model, name)
        self.settings = settings
        generator = torch.Generator().manual_seed(seed)
        self._layers = []
        count = model.config.get_text_config().num_hidden_layers
        for site in attention_sites(model, settings.layers_of(count)):
            memory = GatedMemory(
                site.heads,
                site.head_dim,
                width=settings.width,
                gate=settings.gate,
                start=settings.start,
                generator=generator,
            )
            memory.requires_grad_(False).to(site.output_projection.weight.device)
            self._layers.append(_Layer(site, memory, settings.gate == "exact"))
        self.first_layer = min(layer.site.layer for layer in self._layers)

    @classmethod
    def create(cls, model: Any, settings: AdapterSettings, seed: int, name: str = "default") -> GatedMemoryAdapter:
        """Attach a new Gated Memory; with start "identity" it changes nothing until it is trained.

        The exact gate starts near 0.047 for a window of random tokens. Raises AdapterError where the model has no
        attention that can be read and mixed, lacks a layer, or (exact gate) has an attention that cannot be chosen.
        """
        adapter = cls(model, settings, seed, name)
        adapter._enrol()
        if settings.gate == "exact":
            adapter._expect_usual_log_sums(seed)
        return adapter

    @classmethod
    def restore(
        cls, model: Any, config: dict[str, Any], state: dict[str, torch.Tensor], name: str = "default"
    ) -> GatedMemoryAdapter:
        """Attach a stored adapter; raises AdapterError on a key that is missing or too many, or a wrong shape."""
        if config.get("format_version") != _FORMAT_VERSION or set(config) != {"adapter", "format_version", *_SETTINGS}:
            raise AdapterError(
                f"expected a Gated Memory of format version {_FORMAT_VERSION} with {', '.join(_SETTINGS)}, "
                f"got version {config.get('format_version')} with {', '.join(sorted(config))}; absorb again"
            )
        chosen = {key: config[key] for key in _SETTINGS}
        settings = AdapterSettings.parse({"kind": KIND, **chosen}, "adapter_config.json")
        adapter = cls(model, settings, 0, name)
        adapter.load_state(state)
        adapter._enrol()
        return adapter

    def named_parameters(self) -> dict[str, torch.nn.Parameter]:
        """The trained parameters, this adapter's alone, in a stable order, by their names in the state."""
        return {
            f"{layer.site.path}.gated_memory.{name}": parameter
            for layer in self._layers
            for name, parameter in layer.memory.named_parameters()
        }

    def stored(self) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
        """(adapter_config.json, tensors) that give this adapter on the untouched base model."""
        values = self.settings.model_dump(mode="json")
        config = {"adapter": KIND, "format_version": _FORMAT_VERSION, **{key: values[key] for key in _SETTINGS}}
        return config, self.trained_state()

    @contextlib.contextmanager
    def recording_gates(self) -> Iterator[None]:
        """Inside the block, `gates` gives those of the last forward pass; otherwise nothing is kept."""
        for layer in self._layers:
            layer.recording = True
        try:
            yield
        finally:
            for layer in self._layers:
                layer.recording, layer.gate = False, None

    def gates(self) -> list[torch.Tensor]:
        """g of each layer in the last forward pass, with its graph: [B, T, H] each, B the rows with this adapter.

        Raises AdapterError outside `recording_gates`, or before a forward pass.
        """
        recorded = [layer.gate for layer in self._layers if layer.gate is not None]
        if len(recorded) != len(self._layers):
            raise AdapterError(
                "expected a forward pass inside recording_gates, got no gates; run the model there first"
            )
        return recorded

    def _switch(self, rows: tuple[int, ...] | None) -> None:
        watching, wanted = self.rows != (), rows != ()
        if self.settings.gate == "exact" and wanted != watching:
            (start_watching if wanted else stop_watching)(self.model, [layer.site.module for layer in self._layers])
        for layer in self._layers:
            layer.switch(rows)

    def _remove(self) -> None:
        """Hooks are out already where the adapter is applied to no row."""

    @torch.no_grad()
    def _expect_usual_log_sums(self, seed: int) -> None:
        """Centre the exact gates on the mean log Z_i that the base has on a window of random tokens."""
        generator = torch.Generator().manual_seed(seed)
        vocabulary = self.model.get_input_embeddings().num_embeddings
        ids = torch.randint(vocabulary, (1, _CALIBRATION_TOKENS), generator=generator)  # [1, T]
        handles = []
        for layer in self._layers:

            def expect(attention: Any, _args: Any, _output: Any, memory: GatedMemory = layer.memory) -> None:
                memory.expect_log_sum(last_log_sum(attention).mean(dim=(0, 1)))  # [H]

            handles.append(layer.site.module.register_forward_hook(expect, prepend=True))
        try:
            self.model(ids.to(self.model.device), use_cache=False)
        finally:
            for handle in handles:
                handle.remove()
