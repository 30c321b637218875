"""Wrong values in requests: one sentence each, true of what was sent, in the caller's own words."""

from __future__ import annotations

import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, ValidationError

from lift.server.compare_api import CompareBody
from lift.server.invalid import Invalid, describe_invalid
from lift.server.jobs_api import Priority
from lift.server.library_api import Renaming
from lift.server.openai_jobs import JobBody
from lift.server.openai_shapes import ChatBody, CompletionBody
from lift.server.plan_api import PlanBody

CHAT: dict[str, Any] = {"model": "m", "messages": [{"role": "user", "content": "Who?"}]}
VALID: list[tuple[type[BaseModel], dict[str, Any]]] = [
    (ChatBody, CHAT),
    (CompletionBody, {"model": "m", "prompt": "Once"}),
    (JobBody, {"model": "m", "training_file": "file-0"}),
    (PlanBody, {"file_id": "file-0"}),
    (CompareBody, {"model": "m", "question": "Who?"}),
    (Renaming, {"name": "n"}),
    (Priority, {"priority": 1}),
]


def refused(model: type[BaseModel], body: Any) -> Invalid | None:
    """What is said of a body; None where it is taken."""
    try:
        model.model_validate(body)
    except ValidationError as error:
        found = [{**each, "loc": ("body", *each["loc"])} for each in error.errors()]
        return describe_invalid(found, body)
    return None


def part(**values: Any) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": [{"type": "text", "text": "See"}, values]}]}


@pytest.mark.parametrize(
    ("changes", "place", "message"),
    [
        ({"top_p": -1}, "top_p", "expected top_p to be a number of at least 0, got -1; give another value"),
        ({"n": 1.5}, "n", "expected n to be a whole number, got 1.5; give another value"),
        ({"stream": "yes"}, "stream", "expected stream to be true or false, got 'yes'; give another value"),
        ({"stop": list("abcde")}, "stop", "expected stop to be a text or at most 4 items, got 5 items; leave some out"),
        ({"stop": 5}, "stop", "expected stop to be a text or a list, got 5; give another value"),
        (
            {"stop": ["a", ""]},
            "stop.1",
            "expected stop.1 to be a text of at least 1 character, got ''; give another value",
        ),
        (
            {"messages": [{"role": "user", "content": 7}]},
            "messages.0.content",
            "expected messages.0.content to be a text or a list, got 7; give another value",
        ),
        (
            {"messages": [5]},
            "messages.0",
            "expected messages.0 to be an object, got 5; give another value",
        ),
        (
            {"messages": [{"role": "user"}]},
            "messages.0.content",
            "expected messages.0.content, got a request without it; add it",
        ),
        (
            part(type="text"),
            "messages.0.content.1.text",
            "expected messages.0.content.1.text, got a request without it",
        ),
        (
            part(type="text", text=None),
            "messages.0.content.1.text",
            "expected messages.0.content.1.text to be a text, got null; give another value",
        ),
        (part(type="image_url", image_url={"url": "x"}), "messages.0.content.1", "images, audio and files"),
        (part(type="input_audio", input_audio={}), "messages.0.content.1", "got 'input_audio'"),
        (part(type="file", file={}), "messages.0.content.1", "got 'file'"),
        ({"top-K": 5}, "top-K", "unknown parameter 'top-K'; leave it out"),
        ({"context": "all"}, "context", "expected context to be 'auto', 'none', 'truncated', 'full' or 'evidence'"),
        ({"stream_options": 5, "stream": True}, "stream_options", "to be an object, got 5"),
    ],
)
def test_a_wrong_value_is_named_as_it_was_written(changes: dict[str, Any], place: str, message: str) -> None:
    said = refused(ChatBody, {**CHAT, **changes})
    assert said is not None
    assert said.place == place
    assert message in said.message


@pytest.mark.parametrize(
    ("model", "body", "message"),
    [
        (CompletionBody, {"model": "m", "prompt": ["a", "b"]}, "expected prompt to be a text or at most 1 item, got 2"),
        (
            JobBody,
            {"model": "m", "training_file": "f", "hyperparameters": {"n_epochs": 0}},
            "expected hyperparameters.n_epochs to be 'auto' or a number of at least 1, got 0",
        ),
        (
            JobBody,
            {"model": "m", "training_file": "f", "metadata": {"priority": 5}},
            "expected metadata.priority to be a text, got 5",
        ),
        (JobBody, {"model": "m", "training_file": "f", "integrations": [1]}, "expected integrations to be empty"),
        (JobBody, {"model": "m", "training_file": "f", "validation_file": "g"}, "validation_file to be null"),
    ],
)
def test_every_union_says_all_that_it_takes(model: type[BaseModel], body: dict[str, Any], message: str) -> None:
    said = refused(model, body)
    assert said is not None and message in said.message


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-3, 3) | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=6)
        | st.dictionaries(st.sampled_from(["type", "text", "role", "content", "n_epochs", "x"]), inner, max_size=3)
    ),
    max_leaves=8,
)


@given(st.data(), st.sampled_from(VALID), JSON)
def test_no_sentence_speaks_of_the_inside_of_the_program(
    data: st.DataObject, valid: tuple[type[BaseModel], dict[str, Any]], value: Any
) -> None:
    model, body = valid
    field = data.draw(st.sampled_from([*model.model_fields, "unheard_of"]))
    said = refused(model, {**body, field: value})
    if said is None:
        return
    assert not re.search(r"Input should|constrained|\blist\[|valid string|Value error|TextPart|\n", said.message)
    assert said.message[:1].islower() and len(said.message) < 400
    assert said.place.split(".")[0] in (field, "")
    reached: Any = {**body, field: value}
    for step in said.place.split(".") if said.place else ():
        inside = isinstance(reached, dict) and step in reached
        reached = reached[int(step)] if isinstance(reached, list) else reached[step] if inside else None


def test_a_place_within_the_value_is_never_a_name_of_pydantics() -> None:
    for wrong in ({"type": "text", "text": 5}, 5, None, []):
        said = refused(ChatBody, {**CHAT, "messages": [{"role": "user", "content": [wrong]}]})
        assert said is not None and re.fullmatch(r"messages\.0\.content\.0(\.text)?", said.place)
