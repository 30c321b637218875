"""Which memories can go to which program, and the sentence for those that cannot."""

from __future__ import annotations

from typing import Any, Literal, get_args

from lift.adapters.gated_memory_adapter import KIND as GATED_MEMORY
from lift.errors import ExportError

Target = Literal["peft", "gguf", "merged", "vllm", "sglang"]
TARGETS: tuple[Target, ...] = get_args(Target)
AdapterForm = Literal["lora", "activated", "dora", "gated-memory", "remote"]

_TO_PLAIN = "add --convert, which makes a plain LoRA of it, or absorb the text with --recipe portable"
_NEEDS_PLAIN = {
    "vllm": "vLLM knows no Activated LoRA",
    "sglang": "SGLang ignores the invocation tokens of an Activated LoRA and would adapt every token",
    "merged": "an Activated LoRA acts on answers alone and has no place in the base model's own weights",
}


def adapter_form(config: dict[str, Any]) -> AdapterForm:
    """The form of the adapter that an adapter_config.json describes."""
    if config.get("adapter") == GATED_MEMORY:
        return "gated-memory"
    if config.get("adapter") == "remote":
        return "remote"
    if config.get("use_dora") or config.get("lora_bias"):
        return "dora"
    return "activated" if config.get("alora_invocation_tokens") else "lora"


def check_target(name: str, form: AdapterForm, target: Target, *, as_gguf: bool = False) -> None:
    """Raise ExportError, naming the way out, where a memory of that form cannot be used by the target's program.

    `as_gguf`: a merged model is wanted as a GGUF file.
    """
    if form == "remote":
        raise ExportError(
            f"the memory {name!r} is a fine-tuned model at an endpoint, which gives no weights away; "
            "absorb its text on a base model of this machine"
        )
    if form == "gated-memory":
        raise ExportError(f"the memory {name!r} is a Gated Memory, which no other program reads; {_TO_PLAIN}")
    if form == "activated" and target in _NEEDS_PLAIN:
        raise ExportError(
            f"the memory {name!r} cannot go to {target}: {_NEEDS_PLAIN[target]}; export it to peft or gguf, {_TO_PLAIN}"
        )
    if form == "dora" and (target in ("gguf", "vllm", "sglang") or as_gguf):
        raise ExportError(
            f"the memory {name!r} is no plain LoRA (DoRA, or with biases), which {'gguf' if as_gguf else target} "
            f"does not take; export it to peft, or with --to merged as a model of its own, {_TO_PLAIN}"
        )


def check_convertible(name: str, form: AdapterForm) -> None:
    """Raise ExportError, naming the way out, where there is nothing to convert a memory of that form from, or to."""
    if form == "remote":
        check_target(name, form, "peft")
    if form == "lora":
        raise ExportError(
            f"the memory {name!r} is a plain LoRA already, which every program takes as it is; leave --convert out"
        )
