"""llama.cpp in a process of its own, whatever its interpreter: a line of JSON in, a line of JSON out.

It is run as a file and imports nothing of Lift, so that an interpreter that has only llama-cpp-python can run it.
"""

from __future__ import annotations

import json
import sys
import time
from typing import Any


def main() -> None:
    """Generate greedily behind each prompt of the request, once without being measured, and print what it took."""
    request: dict[str, Any] = json.loads(sys.stdin.read())
    import llama_cpp
    import numpy

    longest = max(map(len, request["prompts"]))
    model = llama_cpp.Llama(
        model_path=request["gguf"],
        n_ctx=longest + request["tokens"],
        n_threads=request["threads"],
        n_threads_batch=request["threads"],
        verbose=False,
    )
    words = model.n_vocab()

    def generate(prompt: list[int]) -> dict[str, Any]:
        said, arrived = [], []
        model.reset()
        begun, read = time.perf_counter(), prompt
        for _ in range(request["tokens"]):
            model.eval(read)
            logits = llama_cpp.llama_get_logits_ith(model.ctx, -1)
            said.append(int(numpy.ctypeslib.as_array(logits, shape=(words,)).argmax()))
            arrived.append(time.perf_counter())
            read = said[-1:]
        return {"first_token_s": arrived[0] - begun, "rest_s": arrived[-1] - arrived[0], "said": said}

    generate(request["prompts"][0])
    answers = [generate(prompt) for prompt in request["prompts"]]
    print(json.dumps({"version": llama_cpp.__version__, "answers": answers}))


if __name__ == "__main__":
    main()
