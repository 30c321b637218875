"""Absorptions to be done: a durable queue, the process that works on it, and the one that keeps it alive."""
