"""Name -> base model: the default model, a transformers directory, a GGUF file, or a hub id.

Guards against the silent faults of loading: weights that are missing and would be drawn at random, an encoder that
would be taken for a generator, code in a model's directory (never run), pickled weights (never read).
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lift.errors import ModelError
from lift.models.base_model import BaseModel
from lift.models.fingerprint import remembered, weight_files, weights_fingerprint
from lift.models.gguf_conversion import converted_copy, copy_fingerprint, is_converted_copy
from lift.models.quiet import quiet_transformers
from lift.models.smollm2 import smollm2_directory
from lift.models.threads import govern_threads
from lift.models.turns import loading

if TYPE_CHECKING:
    import torch

DEFAULT_MODEL = "smollm2"
DTYPES = ("float32", "bfloat16", "float16")
QUANTIZATIONS = ("nf4", "int8")
_KEPT_PRODUCTS = 128
_DEVICE_TYPES = ("cpu", "cuda", "mps", "xpu")
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?")


def load_model(
    name: str = DEFAULT_MODEL,
    *,
    device: str | None = None,
    dtype: str | None = None,
    quantization: str | None = None,
    on_progress: Callable[[str], None] | None = None,
    fetch: bool = True,
) -> BaseModel:
    """Load a base model in evaluation mode with frozen weights.

    `name` is "smollm2", a transformers directory, a .gguf file, or a hub id. `device` is cuda where there is one, else
    cpu; `dtype` is bfloat16 on cuda and on a processor that multiplies it in hardware, else float32; `quantization`
    ("nf4" or "int8", cuda only) is applied on loading. `on_progress` is told about the conversion on first use. Without
    `fetch` nothing is downloaded: for names that a memory gives, and not its user. Raises ModelError.
    """
    _check_has_weights(name)
    target = _choose_device(device)
    chosen_dtype = _choose_dtype(dtype, target)
    # oneDNN compiles a product for every shape that it meets, and batches have hundreds: it keeps 1,024 unless told
    os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", str(_KEPT_PRODUCTS))
    extra = _quantization_settings(quantization, target, chosen_dtype)
    directory, model_id, fingerprint = _find(name, on_progress, fetch)
    return _load_directory(directory, model_id, target, chosen_dtype, extra, fingerprint)


def load_outline(
    name: str = DEFAULT_MODEL, *, on_progress: Callable[[str], None] | None = None, fetch: bool = True
) -> BaseModel:
    """A base model as load_model, but for the numbers of its weights: others compute with them.

    It has tokenizer, configuration and identity, and takes no memory; its modules are on torch's device "meta". The
    weights' files are hashed, so they have to be here. A directory that Lift has converted from a GGUF file is that
    file's model. Raises ModelError.
    """
    _check_has_weights(name)
    directory, model_id, fingerprint = _find(name, on_progress, fetch)
    if fingerprint is None and is_converted_copy(directory):
        fingerprint = copy_fingerprint(directory)
    return _load_directory(directory, model_id, None, None, {}, fingerprint)


def _check_has_weights(name: str) -> None:
    if name.startswith("openai:"):
        raise ModelError(
            f"expected a model to load, got {name!r}, which is fine-tuned and asked behind an API and has no weights "
            "here; give a directory, a GGUF file or a hub id"
        )
    if name.startswith("vllm:"):
        raise ModelError(
            f"expected a model to load, got {name!r}, which answers elsewhere and cannot be trained or measured from "
            "here; give a directory, a GGUF file or a hub id"
        )


def _find(name: str, on_progress: Callable[[str], None] | None, fetch: bool) -> tuple[Path, str, str | None]:
    """The directory of a model, its id, and its fingerprint where that is known."""
    if name == DEFAULT_MODEL:
        directory = smollm2_directory(on_progress)
        return directory, name, copy_fingerprint(directory)
    # os.path, since pathlib takes "" for the current directory and raises on an unknown user or a null byte.
    path = Path(os.path.expanduser(name))
    if os.path.isdir(os.path.expanduser(name)):
        return path, os.path.abspath(path), None
    if os.path.isfile(path):
        directory = converted_copy(path, on_progress=on_progress)
        return directory, os.path.abspath(path), copy_fingerprint(directory)
    return _hub_directory(name, fetch), name, None


def default_device_and_dtype() -> tuple[torch.device, torch.dtype]:
    """The device and the type that load_model computes with on this machine where nobody asks for others."""
    device = _choose_device(None)
    return device, _choose_dtype(None, device)


def _load_directory(
    directory: Path,
    model_id: str,
    device: torch.device | None,
    dtype: torch.dtype | None,
    extra: dict[str, Any],
    fingerprint: str | None,
) -> BaseModel:
    """Without a device, the model's outline."""
    if not (directory / "config.json").is_file():
        raise ModelError(
            f"expected a transformers model in {directory}, got a directory without config.json; "
            "give the directory that save_pretrained wrote"
        )
    files = weight_files(directory)
    if fingerprint is None:
        fingerprint = remembered("weights", files, lambda: weights_fingerprint(files))

    import safetensors
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

    common: dict[str, Any] = {"local_files_only": True, "trust_remote_code": False}
    try:
        with loading(), quiet_transformers():
            config = AutoConfig.from_pretrained(directory, **common)
            _check_generator(config, model_id)
            loaded: Any = (
                (_outline(directory, config), {"missing_keys": ()})
                if device is None
                else AutoModelForCausalLM.from_pretrained(
                    directory,
                    config=config,
                    dtype=dtype,
                    use_safetensors=True,
                    output_loading_info=True,
                    **common,
                    **extra,
                )
            )
            tokenizer = AutoTokenizer.from_pretrained(directory, **common)
            model, report = loaded
            if not extra and device is not None:
                model.to(device)
    except torch.OutOfMemoryError as error:
        raise ModelError(
            f"expected {model_id} to fit on {device}, got out of memory; "
            "choose a smaller model, quantization nf4, or another device"
        ) from error
    except (OSError, ValueError, KeyError, RuntimeError, TypeError, ImportError, safetensors.SafetensorError) as error:
        cause = (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")
        raise ModelError(f"expected a causal language model in {directory}, got {cause}; check its files") from error
    if report["missing_keys"]:
        missing = ", ".join(sorted(report["missing_keys"])[:3])
        raise ModelError(
            f"expected all weights of {model_id}, got none for {missing} "
            f"({len(report['missing_keys'])} missing); copy the model again"
        )
    _check_tokenizer(tokenizer, model, directory)
    if device is not None and device.type == "cpu":
        govern_threads(model)
    return BaseModel(model=model, tokenizer=tokenizer, id=model_id, fingerprint=fingerprint)


def _outline(directory: Path, config: Any) -> Any:
    """The modules of a model without numbers, and the settings that it is to generate with."""
    import torch
    from transformers import AutoModelForCausalLM, GenerationConfig

    build: Any = AutoModelForCausalLM
    with torch.device("meta"):
        model = build.from_config(config, trust_remote_code=False)
    if (directory / "generation_config.json").is_file():
        model.generation_config = GenerationConfig.from_pretrained(directory, local_files_only=True)
    return model


def _choose_device(name: str | None) -> torch.device:
    import torch

    if name is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        if device.type not in _DEVICE_TYPES:
            raise RuntimeError(f"unknown device type {device.type!r}")
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise ModelError(
            f"expected a device of this machine ({_devices_here()}), got {name!r}; choose one of these"
        ) from error
    return device


def _devices_here() -> str:
    import torch

    found = [f"cuda:{index}" for index in range(torch.cuda.device_count())]
    if torch.backends.mps.is_available():
        found.append("mps")
    return ", ".join(["cpu", *found])


def _choose_dtype(name: str | None, device: torch.device) -> torch.dtype:
    import torch

    if name is None:
        return torch.bfloat16 if device.type == "cuda" or _multiplies_bfloat16(device) else torch.float32
    if name not in DTYPES:
        raise ModelError(f"expected a dtype out of {', '.join(DTYPES)}, got {name!r}; choose one of these")
    dtype: torch.dtype = getattr(torch, name)
    return dtype


def _multiplies_bfloat16(device: torch.device) -> bool:
    """Whether it is a processor with units for bfloat16; others emulate it, and are slower than with float32."""
    import torch

    units: Any = torch.cpu  # there is no public question; torch is pinned
    return device.type == "cpu" and (units._is_avx512_bf16_supported() or units._is_amx_tile_supported())


def _quantization_settings(name: str | None, device: torch.device, dtype: torch.dtype) -> dict[str, Any]:
    """The arguments with which from_pretrained quantises on loading; empty for no quantisation."""
    if name is None:
        return {}
    if name not in QUANTIZATIONS:
        raise ModelError(
            f"expected a quantization out of {', '.join(QUANTIZATIONS)}, got {name!r}; choose one of these"
        )
    if device.type != "cuda":
        raise ModelError(f"expected a cuda device for quantization {name}, got {device}; leave the quantization out")
    import importlib.util

    if importlib.util.find_spec("bitsandbytes") is None:
        raise ModelError(
            f"expected the package bitsandbytes for quantization {name}, found none; run: pip install bitsandbytes"
        )
    from transformers import BitsAndBytesConfig

    build: Any = BitsAndBytesConfig
    if name == "nf4":
        settings = build(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_compute_dtype=dtype,
            bnb_4bit_use_double_quant=True,
        )
    else:
        settings = build(load_in_8bit=True)
    return {"quantization_config": settings, "device_map": {"": device}}


def _hub_directory(name: str, fetch: bool) -> Path:
    """The local snapshot of a hub model, downloaded where that is possible and wanted."""
    if not _HUB_ID.fullmatch(name) or name.endswith(".gguf"):
        raise ModelError(
            f"expected a transformers directory, a GGUF file or a hub id, got {name!r}, which is not there"
        )
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    try:
        snapshot = snapshot_download(
            name,
            allow_patterns=["*.json", "*.safetensors", "*.jinja", "*.txt", "*.model"],
            ignore_patterns=["*/*"],
            local_files_only=not fetch,
        )
    except LocalEntryNotFoundError as error:
        if not fetch:
            raise ModelError(
                f"the memory belongs to the base model {name!r}, which is not on this machine; to have it fetched from "
                f"the hub, name it yourself: --model {name}, or lift.load_model({name!r})"
            ) from None
        raise _no_model(name, error) from error
    except (OSError, ValueError, HfHubHTTPError) as error:
        raise _no_model(name, error) from error
    return Path(snapshot)


def _no_model(name: str, error: Exception) -> ModelError:
    return ModelError(
        f"expected {name!r} to be a file or directory here, or a model that the hub offers or that was downloaded "
        f"before, got none ({type(error).__name__}); check the name and the network, or use {DEFAULT_MODEL!r}"
    )


def _check_generator(config: Any, model_id: str) -> None:
    """Raise ModelError for encoders and encoder-decoders, which transformers would load without a word."""
    from transformers.models.auto import modeling_auto

    causal = modeling_auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES
    masked = modeling_auto.MODEL_FOR_MASKED_LM_MAPPING_NAMES
    generates = bool(set(config.architectures or ()) & set(causal.values())) or config.model_type not in masked
    if (
        config.model_type not in causal
        or getattr(config, "is_encoder_decoder", False)
        or not (generates or getattr(config, "is_decoder", False))
    ):
        kind = ", ".join(config.architectures or ()) or config.model_type
        raise ModelError(
            f"expected a causal (decoder-only) language model, got {model_id}, which is {kind}; "
            "choose a model that generates text from left to right"
        )


def _check_tokenizer(tokenizer: Any, model: Any, directory: Path) -> None:
    rows = model.get_input_embeddings().weight.shape[0]
    if len(tokenizer) <= len(tokenizer.all_special_ids) or len(tokenizer) > rows:
        raise ModelError(
            f"expected a tokenizer of at most {rows} tokens in {directory}, got one of {len(tokenizer)}; "
            "copy the model's tokenizer files again"
        )
    if tokenizer.eos_token_id is None:
        raise ModelError(
            f"expected a tokenizer with an end-of-text token in {directory}, got one without; add eos_token"
        )
    # Batches need a padding token; its labels are never trained on, so the end token serves.
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
