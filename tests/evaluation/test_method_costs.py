"""Costs, break-even and harms: the arithmetic by hand, and both ways run in earnest on a tiny model."""

from __future__ import annotations

import json
import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lift.adapters.attach import create_adapter
from lift.answering.answerer import kept_prefixes
from lift.documents.document import Document
from lift.errors import DataError
from lift.evaluation.break_even import (
    MEMORY_METHOD,
    TIMED_QUESTIONS,
    BreakEvenCandidate,
    BreakEvenProgress,
    check_break_even,
    find_candidate,
)
from lift.evaluation.harms import measure_ability, perplexity, unrelated_questions, unrelated_text
from lift.evaluation.method_costs import answering_costs, break_even_questions, kv_cache_bytes
from lift.evaluation.reader import ModelReader, Reply
from lift.evaluation.records import Question, Record
from lift.evaluation.run_files import RunData
from lift.evaluation.suite_plan import RunPlan
from lift.models.base_model import BaseModel
from lift.recipes.recipe import AdapterSettings


def test_the_key_value_cache_by_hand() -> None:
    # Llama-3-8B: 32 layers, 8 key-value heads of 128, 2 bytes: 128 KiB a token
    llama: Any = SimpleNamespace(num_hidden_layers=32, num_key_value_heads=8, head_dim=128, num_attention_heads=32)
    assert kv_cache_bytes(llama, 1) == 131_072
    older: Any = SimpleNamespace(num_hidden_layers=2, num_attention_heads=4, hidden_size=64)
    assert kv_cache_bytes(older, 10) == 2 * 2 * 4 * 16 * 10 * 2


@pytest.mark.parametrize(
    ("absorb_s", "other_s", "memory_s", "questions"),
    [(100.0, 3.0, 1.0, 50), (100.0, 2.5, 1.0, 67), (0.0, 2.0, 1.0, 0), (100.0, 1.0, 1.0, None), (1.0, 1.0, 2.0, None)],
)
def test_break_even_by_hand(absorb_s: float, other_s: float, memory_s: float, questions: int | None) -> None:
    assert break_even_questions(absorb_s, other_s, memory_s) == questions


@given(st.floats(0.1, 1e4), st.floats(0.01, 10), st.floats(0.01, 10))
def test_break_even_is_the_first_question_that_pays(absorb_s: float, other_s: float, memory_s: float) -> None:
    n = break_even_questions(absorb_s, other_s, memory_s)
    if n is None:
        assert other_s <= memory_s
    else:
        saved = n * (other_s - memory_s)
        assert saved >= absorb_s or math.isclose(saved, absorb_s, rel_tol=1e-9)
        assert (n - 1) * (other_s - memory_s) < absorb_s or math.isclose(saved, absorb_s, rel_tol=1e-6)


def reply(seconds: float, *, alone: bool, tokens: int = 5, first_s: float | None = None, **other: Any) -> Reply:
    return Reply("a", "q", 100, tokens, seconds, first_token_s=first_s, alone=alone, **other)


def test_only_questions_asked_alone_say_what_one_costs() -> None:
    costs = answering_costs(
        [
            reply(2.0, alone=True, first_s=1.0),
            reply(4.0, alone=True, first_s=1.0),
            reply(9.0, alone=True, first_s=1.0),
            reply(0.1, alone=False),
            Reply("", "", 0, 0, 0.0, error="refused"),
        ]
    )
    assert costs["ask_s"] == 4.0
    assert costs["seconds_per_token"] == pytest.approx(3.0 / 4)
    assert costs["prompt_tokens"] == 100
    assert answering_costs([reply(0.1, alone=False)])["ask_s"] is None


def test_perplexity_is_that_of_each_token_given_those_before(tiny_model: BaseModel) -> None:
    text = "A storm came."
    ids = tiny_model.tokenizer(text)["input_ids"]
    total = 0.0
    for place in range(1, len(ids)):
        with torch.inference_mode():
            logits = tiny_model.model(torch.tensor([ids[:place]])).logits[0, -1]
        total -= torch.log_softmax(logits, -1)[ids[place]].item()
    assert perplexity(tiny_model, text) == pytest.approx(math.exp(total / (len(ids) - 1)), rel=1e-4)


def test_what_is_unrelated_leaves_out_the_document_itself(tiny_model: BaseModel) -> None:
    assert len(unrelated_text().split()) > 400
    titles = {each.title for each in unrelated_questions()}
    assert len(unrelated_questions()) == 18
    assert all(each.answers[0] in each.paragraph for each in unrelated_questions())
    record = Record("a", Document(min(titles), "A text.", "test"), (Question("q", "Who?", ("A",)),))
    reader = ModelReader(tiny_model)
    assert measure_ability(reader, reader, record).questions == 9


def test_an_adapter_that_changes_the_model_shows(tiny_model: BaseModel) -> None:
    before = perplexity(tiny_model, unrelated_text())
    adapter = create_adapter(tiny_model.model, AdapterSettings(kind="lora", rank=2), 0)
    with torch.no_grad():
        for parameter in adapter.parameters():
            parameter.normal_(std=1.0)
    harmed = perplexity(tiny_model, unrelated_text())
    adapter.detach()
    assert abs(harmed - before) > 1
    assert perplexity(tiny_model, unrelated_text()) == before


def cost(document: str, method: str, ask_s: float | None, absorb_s: float = 0.0) -> dict[str, Any]:
    return {"suite": "qa", "document": document, "method": method, "ask_s": ask_s, "absorb_s": absorb_s}


def test_a_document_in_the_middle_is_chosen(tmp_path: Path) -> None:
    costs = [
        cost("slow", "full", 2.0),
        cost("slow", MEMORY_METHOD, 1.0, 100.0),
        cost("quick", "full", 5.0),
        cost("quick", MEMORY_METHOD, 1.0, 100.0),
        cost("quickest", "full", 11.0),
        cost("quickest", MEMORY_METHOD, 1.0, 100.0),
        cost("never", "full", 0.5),
        cost("never", MEMORY_METHOD, 1.0, 100.0),
        cost("untimed", "full", None),
        cost("untimed", MEMORY_METHOD, 1.0, 100.0),
    ]
    run = RunData(tmp_path, {}, costs=costs)
    assert find_candidate(run, "full") == BreakEvenCandidate("qa", "quick", 100.0, 5.0, 1.0, 25)
    assert find_candidate(run, "full", "slow").questions == 100
    for nothing in ("never", "untimed", "unknown"):
        with pytest.raises(DataError, match="pays against 'full'"):
            find_candidate(run, "full", nothing)


@pytest.mark.parametrize("keeps_text", [False, True])
def test_both_ways_are_run_for_as_many_questions_as_should_pay(
    tiny_model: BaseModel, tmp_path: Path, keeps_text: bool
) -> None:
    data = tmp_path / "questions.jsonl"
    questions = [{"id": str(n), "question": f"Who sells ticket {n}?", "answers": ["Bram Holt"]} for n in range(2)]
    text = "Bram Holt sells the tickets. The shop opens at nine."
    data.write_text(
        json.dumps({"id": "holt", "title": "Holt", "context": text, "questions": questions}) + "\n", "utf-8"
    )
    plan = RunPlan.parse(
        {
            "suite": [{"name": "qa", "data": data}],
            "overrides": ["training.epochs=1", "adapter.rank=2", "tasks.per_sentence=4"],
        },
        "test",
    )
    candidate = BreakEvenCandidate("qa", "holt", absorb_s=1.0, other_s=0.3, memory_s=0.1, questions=5)
    *events, result = check_break_even(candidate, plan, tiny_model, "full", 20, keeps_text=keeps_text)
    told = [event for event in events if isinstance(event, BreakEvenProgress)]
    assert isinstance(result, dict)
    assert result["run_said_questions"] == 5
    assert result["text_kept"] == keeps_text
    assert (kept_prefixes(tiny_model.model).bytes > 0) == keeps_text
    total = result["measured"][-1]["questions"]
    expected = result["predicted_questions"] or 5
    assert total == min(expected * 3 // 2 + 1, 20)
    for way in (MEMORY_METHOD, "full"):
        assert [event.done for event in told if event.way == way] == list(range(TIMED_QUESTIONS + 1, total + 1))
    measured = result["measured"]
    assert {1, min(expected, total), total} <= {row["questions"] for row in measured}
    assert all(row["seconds_b"] > result["absorb_s"] for row in measured)
    assert [row["seconds_a"] for row in measured] == sorted(row["seconds_a"] for row in measured)
    paid = [row["questions"] for row in measured if row["seconds_b"] <= row["seconds_a"]]
    if result["measured_questions"] is None:
        assert not paid
    else:
        assert min(paid) >= result["measured_questions"]
