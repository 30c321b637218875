"""Memories in other programs: exported for PEFT, llama.cpp, vLLM and SGLang, imported from PEFT, kept on a hub."""
