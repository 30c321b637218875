"""Memories on disk: one of them (memory.py), the directory that holds them all (library.py), and what guards both."""
