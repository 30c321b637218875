"""The rivals of a memory: every way of reading again, by the base model at the warm start of the memories.

What the warm start has learned from other texts, to answer briefly above all, is no merit of a memory. These rows
read with it, and without the document in any parameter.
"""

from dataclasses import replace

from lift.evaluation.methods import bm25, closed_book, full, hybrid, oracle, truncated
from lift.evaluation.methods import embedding_retrieval as embeddings

_READING = (closed_book, truncated, full, bm25, embeddings, hybrid, oracle)

METHODS = tuple(
    replace(
        module.METHOD,
        name=f"tuned:{module.METHOD.name}",
        summary=module.METHOD.summary.replace("the base model", "the tuned reader"),
        memory="start",
    )
    for module in _READING
)
