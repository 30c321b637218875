"""The memory of the document, with as much of it in the prompt as the name says."""

from lift.evaluation.methods import bm25, truncated
from lift.evaluation.methods.method import Method, no_context

METHODS = (
    Method("lift:none", "the memory, closed book", "none", no_context, "own", routed=True),
    Method("lift:greedy", "the memory, closed book, its likeliest words and no more", "none", no_context, "own"),
    Method("lift:truncated", "the memory with the document's head and tail", "truncated", truncated.choose, "own"),
    Method("lift:evidence", "the memory with the sentences that BM25 finds", "evidence", bm25.choose, "own"),
    Method("lift:auto", "the memory as `lift ask` uses it by default", "auto", bm25.choose, "own", routed=True),
)
