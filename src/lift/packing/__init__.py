"""Questions, tasks and segments as tokens, packed into tensors, with their forward pass and their losses."""
