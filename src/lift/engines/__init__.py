"""Servers of other programs that answer for Lift: vLLM and llama.cpp behind the protocol of lift.serving.backend."""
