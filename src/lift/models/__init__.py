"""Base models: loading one from anywhere, and generating with it."""
