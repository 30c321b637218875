"""Packing: questions, tasks and segments -> tokens -> packed tensors, with their forward pass and their losses."""
