"""Any LoRA that PEFT describes as one with a single rank and a single scaling, which every program reads alike.

Rank-stabilised scaling (alpha / sqrt r), and ranks and alphas that differ by matrix, are read by few programs, and by
some of them silently wrong. The product s B A stays what it was: a smaller rank is filled up with zeros, and what is
left of a scaling goes into B.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from peft import LoraConfig
from peft.utils.other import get_pattern_key

from lift.adapters.lora_config import is_plain, read_config, storable
from lift.errors import AdapterError

_DOWN, _UP = ".lora_A.weight", ".lora_B.weight"
State = dict[str, torch.Tensor]


def plain_lora(config: dict[str, Any], state: State) -> tuple[dict[str, Any], State] | None:
    """The equal adapter with one rank and one scaling for all of its matrices, as PEFT stores it.

    None for an update that is no product of two factors (DoRA, biases). Raises AdapterError for a configuration that is
    none, a factor without the other, or a rank that is not the one stated.
    """
    read = read_config(config)
    if read.use_dora or read.lora_bias or any(not key.endswith((_DOWN, _UP)) for key in state):
        return None
    paths = lora_paths(state)
    if is_plain(read):
        return config, state
    ranks = {path: state[path + _DOWN].shape[0] for path in paths}
    for path, rank in ranks.items():
        stated = _stated(read.rank_pattern, path, read.r)
        if rank != stated:
            raise AdapterError(f"expected a rank of {stated} at {path}, as its configuration states, got {rank}")
    scalings = {path: _scaling(read, path, ranks[path]) for path in paths}
    rank, scaling = max(ranks.values()), max(scalings.values())
    plain = State()
    for path in paths:
        down, up = state[path + _DOWN].float(), state[path + _UP].float()
        missing = rank - ranks[path]
        plain[path + _DOWN] = torch.cat([down, down.new_zeros(missing, down.shape[1])])
        plain[path + _UP] = torch.cat([up * (scalings[path] / scaling), up.new_zeros(up.shape[0], missing)], dim=1)
    made = LoraConfig(
        r=rank,
        lora_alpha=scaling * rank,  # type: ignore[arg-type]
        target_modules=paths,
        task_type="CAUSAL_LM",
        alora_invocation_tokens=read.alora_invocation_tokens,
        base_model_name_or_path=read.base_model_name_or_path,
    )
    return storable(made), plain


def lora_paths(state: State) -> list[str]:
    """The paths of the matrices that a LoRA has factors of, sorted; raises AdapterError for one without the other."""
    downs = {key.removesuffix(_DOWN) for key in state if key.endswith(_DOWN)}
    ups = {key.removesuffix(_UP) for key in state if key.endswith(_UP)}
    if downs != ups or not downs:
        alone = sorted(downs ^ ups)[:2]
        raise AdapterError(f"expected both factors of each matrix, got one alone of {alone or 'none'}")
    return sorted(downs)


def _stated(pattern: dict[str, Any] | None, path: str, default: float) -> float:
    """The value that a pattern of PEFT's states for a module, else the default."""
    known = pattern or {}
    value: float = known.get(get_pattern_key(list(known), path), default)
    return value


def _scaling(config: LoraConfig, path: str, rank: int) -> float:
    alpha = _stated(config.alpha_pattern, path, config.lora_alpha)
    return float(alpha / (math.sqrt(rank) if config.use_rslora else rank))
