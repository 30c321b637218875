"""The lines of results.jsonl and costs.jsonl: an answer with its scores, and what a method cost on a document."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from lift.answering.attribution.attribute import attribute
from lift.documents.retrieval import SentenceIndex
from lift.evaluation.method_costs import answering_costs, kv_cache_bytes
from lift.evaluation.method_runs import MethodRun
from lift.evaluation.methods.method import ShownPassage
from lift.evaluation.metrics import score
from lift.evaluation.reader import Reply
from lift.evaluation.records import Question
from lift.memories.memory import StoredMemory
from lift.models.device import peak_memory_bytes


def result_line(
    job: MethodRun,
    question: Question,
    passage: ShownPassage,
    reply: Reply,
    memory: StoredMemory | None,
    index: SentenceIndex,
) -> dict[str, Any]:
    """An answer and its scores; `index` finds the sentence that supports it. An error scores 0 by every metric."""
    asking = job.record.asking
    failed = reply.error is not None
    scores = dict.fromkeys(asking.metrics, 0.0)
    if not failed:
        scores = score(
            reply.text, question.answers, asking.metrics, choices=question.choices, first_line=asking.first_line
        )
    found = None if failed else attribute(index, job.record.document, question.text, reply.text)
    return {
        "suite": job.suite.plan.title,
        "document": job.record.id,
        "question_id": question.id,
        "method": job.method.name,
        "question": question.text,
        "answer": reply.text,
        "gold": list(question.answers),
        "scores": scores,
        "main": asking.metrics[0],
        "prompt_tokens": reply.prompt_tokens,
        "answer_tokens": reply.answer_tokens,
        "seconds": reply.seconds,
        "error": reply.error,
        "title": job.record.label,
        "kind": question.kind,
        "context": job.method.context,
        "prompt": reply.prompt,
        "truncated": passage.cut,
        "supported": None if failed else found is not None and found.supports,
        "support": [found.sentence.text] if found is not None else [],
        "cell": job.record.cells.get(question.id),
        "memory": memory.name if memory is not None else None,
        "judge": None,
        "key": job.key,
    }


def cost_line(
    job: MethodRun, memory: StoredMemory | None, replies: Sequence[Reply], document_tokens: int, config: Any
) -> dict[str, Any]:
    """The cost of `job`. `config`: the base model's text configuration, None for a model at an endpoint."""
    manifest = memory.manifest if memory is not None else None
    files = manifest.files.items() if manifest is not None else ()
    return {
        "suite": job.suite.plan.title,
        "document": job.record.id,
        "method": job.method.name,
        "document_tokens": document_tokens,
        "memory": memory.name if memory is not None else None,
        "absorb_s": manifest.cost.seconds if manifest is not None else 0.0,
        "absorb_tokens": manifest.cost.tokens if manifest is not None else 0,
        "adapter_bytes": sum(record.size_bytes for path, record in files if path.startswith("adapter/")),
        "kv_bytes": kv_cache_bytes(config, document_tokens) if config is not None else None,
        **answering_costs(replies),
        "recalled": manifest.recall.recalled if manifest is not None else 0,
        "probed": manifest.recall.probed if manifest is not None else 0,
        "peak_memory_bytes": peak_memory_bytes(),
        "key": job.key,
    }
