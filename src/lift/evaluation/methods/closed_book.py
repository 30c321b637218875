"""The base model without the document: what it knows anyway."""

from lift.evaluation.methods.method import Method, no_context

METHOD = Method("closed-book", "the base model, nothing of the document in its prompt", "none", no_context)
