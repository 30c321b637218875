"""A machine that is simulated: its clock goes on with each pass of a model, by the tokens that pass it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch


class Machine:
    """A clock that is moved by the passes of `model`, so that seconds of a training depend on nothing else.

    A token that is trained takes `s_per_token` seconds, a pass without gradient `pass_s` and a tenth of that a token;
    all of it `slowness(now)` times as long.
    """

    def __init__(
        self,
        model: Any,
        s_per_token: float = 0.002,
        pass_s: float = 0.05,
        slowness: Callable[[float], float] = lambda _: 1.0,
    ) -> None:
        self.now = 0.0
        self.passes = 0
        self._s_per_token = s_per_token
        self._pass_s = pass_s
        self._slowness = slowness
        model.register_forward_hook(self._pass, with_kwargs=True)

    def clock(self) -> float:
        """Seconds since the start."""
        return self.now

    def _pass(self, _model: Any, args: tuple[Any, ...], kwargs: dict[str, Any], _output: Any) -> None:
        ids = kwargs.get("input_ids", args[0] if args else None)
        tokens = ids.numel() if ids is not None else kwargs["inputs_embeds"].shape[1]
        trained = torch.is_grad_enabled() and not torch.is_inference_mode_enabled()
        seconds = tokens * self._s_per_token if trained else self._pass_s + tokens * self._s_per_token / 10
        self.passes += 1
        self.now += self._slowness(self.now) * seconds
