"""Coverage-guided fuzzing of everything that reads bytes of a stranger's."""
