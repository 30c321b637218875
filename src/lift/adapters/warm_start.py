"""Warm start of a LoRA: an adapter tuned on other documents that new ones begin at (pre-LIFT SFT, method 1.4).

A small base model answers at length and beside the point; a warm start has learned from other texts, with questions
that people asked, how an answer looks. What a memory then has to learn is its own text. It is an adapter like any other
(PEFT's layout), bound to the weights that it was tuned on, and fits every rank and choice of layers. It acts on all
that it reads; a memory that acts on answers alone takes of it what acts there.

The reader, who answers from sentences that stand before a question, is an adapter of the same kind: one of its own for
the weights that Lift has one for, else the warm start itself.
"""

from __future__ import annotations

import hashlib
import json
import os
import stat
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache
from importlib import resources
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load, save

from lift.adapters.adapter import Adapter
from lift.adapters.attach import create_adapter
from lift.adapters.low_rank import nearest_product
from lift.errors import AdapterError, WrongBaseModelError
from lift.models.base_model import BaseModel
from lift.packing.prompts import invocation_of
from lift.recipes.recipe import AdapterSettings

_ABOUT_FILE = "warm_start.json"
_CONFIG_FILE = "adapter_config.json"
_STATE_FILE = "adapter_model.safetensors"
_PASSAGES_FILE = "passages.jsonl"
_FILES = (_ABOUT_FILE, _CONFIG_FILE, _STATE_FILE, _PASSAGES_FILE)
_WARM_STARTS = "warm_starts"
_READERS = "readers"
_MAX_FILE_BYTES = 16 << 30
_PEFT_PREFIX = "base_model.model."
_STORED_DTYPE = torch.bfloat16


@dataclass(frozen=True)
class WarmStartPassage:
    """A piece of the documents that a warm start was tuned on, with questions and their answers."""

    text: str
    questions: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class WarmStartOrigin:
    """Where a warm start comes from: the base's weights, the documents and their licences, and how it was tuned."""

    base_id: str
    base_fingerprint: str
    documents: tuple[str, ...]
    licence: str
    tuning: dict[str, Any]


@dataclass(frozen=True)
class WarmStart:
    """LoRA tensors by module path of the bare base; `digest` is a hash of them and of `config`, how they act.

    `passages` are some of what it was tuned on, for memories to go on with.
    """

    about: WarmStartOrigin
    config: dict[str, Any]
    state: dict[str, torch.Tensor]
    digest: str
    passages: tuple[WarmStartPassage, ...] = ()

    @classmethod
    def of(
        cls,
        about: WarmStartOrigin,
        config: dict[str, Any],
        state: dict[str, torch.Tensor],
        passages: Sequence[WarmStartPassage],
    ) -> WarmStart:
        """The tuned adapter, as it will be stored: in bfloat16."""
        state = {key: tensor.to(_STORED_DTYPE) for key, tensor in state.items()}
        return cls(about, config, state, _digest(config, _to_bytes(state)), tuple(passages))

    @property
    def scaling(self) -> float:
        """alpha / rank."""
        return float(self.config["lora_alpha"] / self.config["r"])

    def fit(self, fresh: dict[str, torch.Tensor], scaling: float) -> dict[str, torch.Tensor]:
        """`fresh`, the tensors of a new LoRA, with this warm start wherever both have a matrix.

        A larger rank keeps its new rows of A beside zero columns of B, so the update stays what it was; a smaller one
        gets the nearest update of its rank (truncated singular value decomposition). Raises AdapterError where a matrix
        has another size.
        """
        fitted = dict(fresh)
        for key in (key for key in fresh if key.endswith(".lora_A.weight") and key in self.state):
            other = key.replace(".lora_A.", ".lora_B.")
            down = self.state[key].float()  # [r, in]
            up = self.state[other].float() * (self.scaling / scaling)  # [out, r]
            if down.shape[1] != fresh[key].shape[1] or up.shape[0] != fresh[other].shape[0]:
                raise AdapterError(
                    f"{key}: the warm start has {down.shape[1]} x {up.shape[0]} weights, the model "
                    f"{fresh[key].shape[1]} x {fresh[other].shape[0]}; use one that was tuned on this base model"
                )
            rank, wanted = down.shape[0], fresh[key].shape[0]
            if wanted < rank:
                down, up = nearest_product(down, up, wanted)
            fitted[key] = torch.cat([down, fresh[key].float()[down.shape[0] :]])
            fitted[other] = torch.cat([up, torch.zeros_like(fresh[other].float()[:, up.shape[1] :])], dim=1)
        return fitted

    def write(self, directory: Path) -> None:
        """Put it into `directory`, which is made."""
        directory.mkdir(parents=True, exist_ok=True)
        (directory / _CONFIG_FILE).write_text(json.dumps(self.config, indent=2) + "\n", "utf-8")
        (directory / _ABOUT_FILE).write_text(
            json.dumps(asdict(self.about), indent=2, ensure_ascii=False) + "\n", "utf-8"
        )
        (directory / _STATE_FILE).write_bytes(_to_bytes(self.state))
        lines = (json.dumps(asdict(passage), ensure_ascii=False) + "\n" for passage in self.passages)
        (directory / _PASSAGES_FILE).write_text("".join(lines), "utf-8")


def start_adapter(base: BaseModel, settings: AdapterSettings, seed: int, start: WarmStart | None) -> Adapter:
    """A new adapter on the base, at the warm start `start`; raises AdapterError where that does not fit."""
    invocation = invocation_of(base.tokenizer) if settings.acts_on_answers else ()
    adapter = create_adapter(base.model, settings, seed, invocation=invocation)
    if start is not None:
        try:
            adapter.load_state(start.fit(adapter.trained_state(), settings.alpha / settings.rank))
        except BaseException:
            adapter.detach()
            raise
    return adapter


def find_warm_start(base: BaseModel, settings: AdapterSettings) -> WarmStart | None:
    """The warm start that `adapter.warm_start` names: "auto" is that which comes with Lift for these weights.

    None where there is none, and for adapters other than plain LoRA. Raises AdapterError where a directory holds none,
    WrongBaseModelError where it was tuned on other weights.
    """
    wanted = settings.warm_start
    if wanted == "none" or settings.kind != "lora":
        return None
    if wanted == "auto":
        return _packaged(_WARM_STARTS, base.fingerprint)
    found = read_warm_start(Path(wanted))
    if found.about.base_fingerprint != base.fingerprint:
        raise WrongBaseModelError(
            f"the warm start {wanted} was tuned on other weights ({found.about.base_id}) than {base.id} has; "
            "tune one for this model with `lift warm-start`, or use adapter.warm_start=auto"
        )
    return found


def find_reader(base: BaseModel, settings: AdapterSettings) -> WarmStart | None:
    """The adapter that reads for memories with these settings: that which comes with Lift, else their warm start.

    None where they begin at none, since nothing but the memory has learned to answer then. Raises as find_warm_start.
    """
    start = find_warm_start(base, settings)
    if start is None or settings.warm_start != "auto":
        return start
    return _packaged(_READERS, base.fingerprint) or start


def read_warm_start(directory: Path) -> WarmStart:
    """The warm start in `directory`; raises AdapterError where there is none, or it is damaged."""
    try:
        files = [_read_bounded(directory / name) for name in _FILES]
    except (OSError, ValueError) as error:
        raise AdapterError(
            f"expected a warm start in {directory}, got none that can be read ({error}); "
            "make one with `lift warm-start`"
        ) from None
    return _parse(str(directory), *files)


def _read_bounded(path: Path) -> bytes:
    """The bytes of a regular file; the path may stand in a memory's recipe, which may come from a stranger."""
    # a pipe would be waited for, perhaps for ever
    with open(os.open(path, os.O_RDONLY | os.O_NONBLOCK), "rb") as stream:
        about = os.fstat(stream.fileno())
        if not stat.S_ISREG(about.st_mode) or about.st_size > _MAX_FILE_BYTES:
            raise ValueError(f"{path.name} is no file of at most {_MAX_FILE_BYTES:,} bytes")
        return stream.read(about.st_size)


def packaged_base_ids() -> frozenset[str]:
    """The ids of the base models that a warm start comes with Lift for."""
    entries = (resources.files("lift.adapters") / _WARM_STARTS).iterdir()
    abouts = (entry / _ABOUT_FILE for entry in entries)
    return frozenset(json.loads(about.read_text("utf-8"))["base_id"] for about in abouts if about.is_file())


@lru_cache(maxsize=4)
def _packaged(kind: str, fingerprint: str) -> WarmStart | None:
    for entry in (resources.files("lift.adapters") / kind).iterdir():
        about = entry / _ABOUT_FILE
        if about.is_file() and json.loads(about.read_text("utf-8"))["base_fingerprint"] == fingerprint:
            return _parse(entry.name, *((entry / name).read_bytes() for name in _FILES))
    return None


def _parse(name: str, about: bytes, config: bytes, state: bytes, passages: bytes) -> WarmStart:
    try:
        facts = json.loads(about)
        facts["documents"] = tuple(facts["documents"])
        tensors = {key.removeprefix(_PEFT_PREFIX): tensor for key, tensor in load(state).items()}
        rows = [json.loads(line) for line in passages.decode("utf-8").split("\n") if line]
        known = tuple(
            WarmStartPassage(row["text"], tuple((asked, said) for asked, said in row["questions"])) for row in rows
        )
        settings = json.loads(config)
        read = WarmStart(WarmStartOrigin(**facts), settings, tensors, _digest(settings, state), known)
        if not all(key.replace(".lora_A.", ".lora_B.") in tensors for key in tensors) or read.scaling <= 0:
            raise ValueError("its tensors are not those of a LoRA")
    except Exception as error:  # safetensors raises an error of its own that is no ValueError
        raise AdapterError(
            f"the warm start {name} is damaged ({error}); make it again with `lift warm-start`"
        ) from None
    return read


def _digest(config: dict[str, Any], state: bytes) -> str:
    described = json.dumps(config, sort_keys=True).encode()
    return hashlib.sha256(hashlib.sha256(described).digest() + hashlib.sha256(state).digest()).hexdigest()


def _to_bytes(state: dict[str, torch.Tensor]) -> bytes:
    return save({_PEFT_PREFIX + key: tensor.contiguous() for key, tensor in state.items()})
