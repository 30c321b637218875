"""GGUF files for llama.cpp: a LoRA with its invocation tokens, and a base model with an adapter merged into it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from lift.errors import ExportError
from lift.exporting.gguf_names import GgufNames
from lift.exporting.plain_lora import State, lora_paths
from lift.models.gguf_conversion import FLOAT32_UP_TO_PARAMETERS, read_header

_FILE_TYPE = "general.file_type"


def write_gguf_lora(path: Path, config: dict[str, Any], state: State, names: GgufNames) -> None:
    """Write a plain LoRA as llama.cpp's --lora reads it, in float32; an activated one with its invocation tokens."""
    import gguf

    writer = gguf.GGUFWriter(path, names.architecture)
    writer.add_type(gguf.GGUFType.ADAPTER)
    writer.add_string(gguf.Keys.Adapter.TYPE, "lora")
    writer.add_float32(gguf.Keys.Adapter.LORA_ALPHA, float(config["lora_alpha"]))
    invocation = config.get("alora_invocation_tokens")
    if invocation:
        kinds = gguf.GGUFValueType
        writer.add_key_value(
            gguf.Keys.Adapter.ALORA_INVOCATION_TOKENS, list(invocation), kinds.ARRAY, sub_type=kinds.UINT32
        )
    for matrix in lora_paths(state):
        name = names.name(matrix)
        up = names.arrange_rows(matrix, state[f"{matrix}.lora_B.weight"].float())
        writer.add_tensor(f"{name}.lora_a", state[f"{matrix}.lora_A.weight"].float().contiguous().numpy())
        writer.add_tensor(f"{name}.lora_b", up.contiguous().numpy())
    _write(writer)


def write_merged_gguf(path: Path, source: Path, config: dict[str, Any], state: State, names: GgufNames) -> None:
    """Write the model in the GGUF file `source` with a plain LoRA added to its matrices.

    Its numbers are dequantised, as Lift's own are, into float32, or into bfloat16 for a model too large for that: a
    quantised matrix would lose most of what was added. All else that `source` says is kept. Raises ExportError where a
    matrix of the adapter is not in it.
    """
    import gguf
    import numpy

    header = read_header(source)
    reader = gguf.GGUFReader(source)
    updates = {names.name(matrix): matrix for matrix in lora_paths(state)}
    if missing := sorted(updates.keys() - {tensor.name for tensor in reader.tensors}):
        raise ExportError(f"expected the matrix {missing[0]} in {source}, found none; give the base model's own file")
    is_small = header.parameters <= FLOAT32_UP_TO_PARAMETERS
    kind = gguf.GGMLQuantizationType.F32 if is_small else gguf.GGMLQuantizationType.BF16
    writer = gguf.GGUFWriter(path, header.architecture)
    for field in reader.fields.values():
        if field.name.startswith("GGUF.") or field.name in (gguf.Keys.General.ARCHITECTURE, _FILE_TYPE):
            continue
        is_array = field.types[0] == gguf.GGUFValueType.ARRAY
        writer.add_key_value(field.name, field.contents(), field.types[0], field.types[-1] if is_array else None)
    writer.add_file_type(gguf.LlamaFileType.ALL_F32 if is_small else gguf.LlamaFileType.MOSTLY_BF16)
    scaling = config["lora_alpha"] / config["r"]
    for tensor in reader.tensors:
        values = gguf.quants.dequantize(tensor.data, tensor.tensor_type).astype(numpy.float32)
        if tensor.name in updates:
            matrix = updates[tensor.name]
            up = names.arrange_rows(matrix, state[f"{matrix}.lora_B.weight"].float())
            down = state[f"{matrix}.lora_A.weight"].float()
            values = values + (scaling * up @ down).numpy()
        if is_small or values.ndim == 1:  # llama.cpp wants norms in float32
            writer.add_tensor(tensor.name, values)
        else:
            packed = gguf.quants.quantize(values, kind)
            writer.add_tensor(tensor.name, packed, raw_shape=packed.shape, raw_dtype=kind)
    _write(writer)


def _write(writer: Any) -> None:
    try:
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
    finally:
        writer.close()
