"""The model card of a memory on a hub: what it knows, what it harms, and under which licence it stands."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass

from lift.absorbing.recall_report import Probe, recorded_report
from lift.adapters.resident import holding_stored
from lift.adapters.row_assignment import restoring, using
from lift.answering.answerer import stored_adapter
from lift.evaluation.harms import perplexity, unrelated_text
from lift.exporting.markdown_text import plain_markdown
from lift.memories.manifest import installed_versions
from lift.memories.memory import StoredMemory
from lift.models.base_model import BaseModel
from lift.models.turns import turn_of

_SHOWN = 10


@dataclass(frozen=True)
class TextHarm:
    """Perplexity of a text that has nothing to do with a memory: of the base model alone, and with the memory."""

    base: float
    memory: float


def measure_text_harm(memory: StoredMemory, base: BaseModel) -> TextHarm:
    """The memory's harm to the reading of another text; raises as open_memory."""
    key, load = stored_adapter(memory, base)
    with turn_of(base.model), restoring(base.model), holding_stored(base.model, {key: load}):
        with using(base.model, None):
            alone = perplexity(base, unrelated_text())
        with using(base.model, key):
            return TextHarm(alone, perplexity(base, unrelated_text()))


def write_card(memory: StoredMemory, licence: str, harm: TextHarm) -> str:
    """README.md of the repository: the front matter that hubs read, and the page."""
    manifest = memory.manifest
    recall, sizes = manifest.recall, manifest.sizes
    activated = bool(memory.adapter_config.get("alora_invocation_tokens"))
    front = {
        "license": licence,
        "library_name": "peft",
        "tags": ["lift-memory", "lora"],
        "base_model": manifest.base.id,
    }
    # JSON is YAML, and what a title holds cannot end a quoted string
    lines = [f"{key}: {json.dumps(value, ensure_ascii=False)}" for key, value in front.items()]
    acts = "on answers alone (Activated LoRA)" if activated else "on all that is read"
    report = recorded_report(memory)
    told = [probe for probe in report.probes if probe.recalled][:_SHOWN]
    forgotten = [probe for probe in report.probes if not probe.recalled][:_SHOWN]
    share = f"{recall.recalled} of {recall.probed} ({recall.share:.0%})" if recall.probed else "none were asked about"
    page = f"""# {plain_markdown(manifest.title)}

A memory: an adapter of {manifest.base.id} (weights {manifest.base.fingerprint[:12]}) that answers questions about one
text, made by Lift {installed_versions()["lift"]}. The text itself is in `document.txt`.

    lift pull REPO
    lift ask {manifest.name} "..."

## Text

{sizes.document_tokens:,} tokens, {sizes.sentences:,} sentences.

## Recall

Sentences recalled of those asked about, closed book: {share}.

{_table("recalled", told)}
{_table("not recalled", forgotten)}
## Harm

The adapter acts {acts}. Perplexity of an unrelated text: {harm.base:.2f} with the base model alone, {harm.memory:.2f}
with the memory.

## Licence

{licence}. It is that of the memory and of the text in it; the base model has its own.
"""
    return "---\n" + "\n".join(lines) + "\n---\n\n" + page


def _table(what: str, probes: Sequence[Probe]) -> str:
    cells = [(each.question, each.expected, each.answer) for each in probes]
    rows = [f"| {' | '.join(map(plain_markdown, row))} |" for row in cells]
    return "\n".join([f"| {what} | expected | answered |", "|---|---|---|", *rows, ""]) if rows else ""
