"""Many questions to many memories at once: one thread owns the base model, and all of them share its batch."""
