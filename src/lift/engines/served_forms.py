"""Which memories a server of another program can answer from, and the way out for those that ask for an answer."""

from __future__ import annotations

import shlex
from typing import Literal

from lift.errors import ExportError, UsageError
from lift.exporting.targets import adapter_form, check_target
from lift.memories.memory import StoredMemory

_FORMS = {"activated": "Activated LoRA", "dora": "DoRA and no biases", "gated-memory": "Gated Memory"}


def check_served(memory: StoredMemory, program: Literal["vLLM", "llama.cpp"]) -> None:
    """Raise UsageError, with the way out, for a memory whose form the program has no place for."""
    form = adapter_form(memory.adapter_config)
    target: Literal["vllm", "gguf"] = "vllm" if program == "vLLM" else "gguf"
    try:
        check_target(memory.name, form, target)
    except ExportError as error:
        if form not in _FORMS:
            raise UsageError(str(error)) from None
        engines = "own or llama.cpp" if form == "activated" else "own"
        raise UsageError(
            f"the memory {memory.name!r} cannot go to {program}: {program} knows no {_FORMS[form]}; make a plain one "
            f"with `lift export {shlex.quote(memory.name)} --to {target} DIR --convert --keep NEW` and ask NEW, absorb "
            f"the text with --recipe portable, or ask it with --engine {engines}"
        ) from None
