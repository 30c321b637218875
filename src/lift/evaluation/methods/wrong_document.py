"""The control: a memory of another document, asked closed book. What it gains over closed book is not knowledge."""

from lift.evaluation.methods.method import Method, no_context

METHOD = Method(
    "wrong-document", "the memory of another document, closed book", "none", no_context, "other", routed=True
)
