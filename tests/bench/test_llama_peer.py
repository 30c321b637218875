"""Lift beside llama.cpp, of which a file stands in: the same prompts, threads and tokens go to both."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import torch

from lift.bench import llama_peer
from lift.bench.llama_peer import LlamaPeer, beside_llama, find_llama
from lift.errors import BenchError
from lift.inference.generate import generate
from lift.models.base_model import BaseModel

PROMPTS = [[5, 6, 7], [9, 8]]
# says what it was asked, and counts up from the last token of each prompt
STAND_IN = """
import json, pathlib, sys
request = json.loads(sys.stdin.read())
pathlib.Path(__file__).with_name("request.json").write_text(json.dumps(request))
print("a line of the library's own")
answer = lambda prompt: {"first_token_s": 0.5, "rest_s": 2.0, "said": SAID or [0] * request["tokens"]}
print(json.dumps({"version": "0", "answers": [answer(prompt) for prompt in request["prompts"]]}))
"""


def stand_in(folder: Path, monkeypatch: pytest.MonkeyPatch, text: str) -> LlamaPeer:
    worker, gguf = folder / "worker.py", folder / "model.gguf"
    worker.write_text(text, "utf-8")
    gguf.write_bytes(b"GGUF")
    monkeypatch.setattr(llama_peer, "_WORKER", worker)
    return LlamaPeer(gguf, sys.executable)


def test_both_sides_get_the_same(tiny_model: BaseModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    said = generate(tiny_model.model, PROMPTS[:1], max_new_tokens=4, end_ids=[])[0]
    peer = stand_in(tmp_path, monkeypatch, STAND_IN.replace("SAID", repr([*said[:2], said[2] + 1, said[3]])))
    result = beside_llama(tiny_model, peer, PROMPTS[:1], 4)
    request = json.loads((tmp_path / "request.json").read_text("utf-8"))
    assert request == {
        "gguf": str(peer.gguf.absolute()),
        "prompts": PROMPTS[:1],
        "tokens": 4,
        "threads": torch.get_num_threads(),
    }
    assert result["same"] == 0.5
    # three tokens behind the first in two seconds
    assert result["llama_cpp"] == {
        "first_token_s": {"median": 0.5, "least": 0.5, "most": 0.5},
        "tokens_per_s": {"median": 1.5, "least": 1.5, "most": 1.5},
    }
    assert result["speed"] == result["lift"]["tokens_per_s"]["median"] / 1.5
    assert json.loads(json.dumps(result, allow_nan=False)) == result


@pytest.mark.parametrize("text", ["import sys; sys.exit('no such module')", "", "raise SystemExit(3)"])
def test_what_llama_does_not_answer_is_said(
    text: str, tiny_model: BaseModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    peer = stand_in(tmp_path, monkeypatch, text)
    with pytest.raises(BenchError, match="no such module" if "such" in text else "exit status"):
        beside_llama(tiny_model, peer, PROMPTS, 2)


def test_an_interpreter_that_is_not_there_is_said(tiny_model: BaseModel, tmp_path: Path) -> None:
    with pytest.raises(BenchError, match="an interpreter"):
        beside_llama(tiny_model, LlamaPeer(tmp_path, str(tmp_path / "python")), PROMPTS, 2)


def test_the_peer_is_found_or_left_out(tiny_model: BaseModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gguf = tmp_path / "model.gguf"
    gguf.write_bytes(b"GGUF")
    assert find_llama(tiny_model, None, "python") is None
    assert find_llama(tiny_model, gguf, "python") == LlamaPeer(gguf, "python")
    own = BaseModel(tiny_model.model, tiny_model.tokenizer, str(gguf), "")
    assert find_llama(own, None, "python") == LlamaPeer(gguf, "python")
    monkeypatch.setattr(llama_peer.importlib.util, "find_spec", lambda _name: None)
    assert find_llama(own) is None
    with pytest.raises(BenchError, match="not there"):
        find_llama(own, tmp_path / "none.gguf", "python")


def test_the_worker_needs_no_lift() -> None:
    text = llama_peer._WORKER.read_text("utf-8")
    assert "lift" not in {
        line.split()[1].split(".")[0] for line in text.splitlines() if line.startswith(("from", "imp"))
    }
