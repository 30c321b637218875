"""Fine-tuning on the raw text, the baseline of LIFT v4/v5, asked closed book."""

from lift.evaluation.methods.method import Method, no_context

METHOD = Method(
    "finetune-raw",
    "a memory of the raw text without tasks, closed book",
    "none",
    no_context,
    "own",
    "finetune-raw",
    True,
)
