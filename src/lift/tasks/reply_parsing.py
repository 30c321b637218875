"""Reply of a language model -> tasks as it wrote them. Strict: a reply that could be read in two ways is not read.

Two formats: JSON, {"tasks": [...]} or the bare list, and labelled lines for models too small for JSON. Where a summary
is asked for it is {"summary": "..."} and what follows the label Summary.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, StrictStr, ValidationError

from lift.tasks.requests import TaskRequest

_LABELLED = re.compile(r"(?:\d{1,3}[.)]\s*)?(Question|Answer|Evidence):\s*(.*)")
_SUMMARY_LABEL = re.compile(r"^[ \t]*Summary:", re.MULTILINE)
_SUMMARY_OBJECT = re.compile(r"\{\s*\"summary\"")
_BLANK_LINE = re.compile(r"\n[ \t]*\n")
_LIST_OF_OBJECTS = re.compile(r"\[\s*[{\]]")
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\s]+")


@dataclass(frozen=True)
class WrittenTask:
    """A task as the model wrote it, white space normalised; nothing of it has been checked."""

    question: str
    answer: str
    evidence: tuple[str, ...] = ()


@dataclass(frozen=True)
class ParsedReply:
    """The readable part of a reply: tasks, or the one `summary` of a request that asks for it.

    `malformed` counts the items that lacked a field or had one of another type.
    """

    tasks: tuple[WrittenTask, ...] = ()
    malformed: int = 0
    summary: str = ""


@dataclass(frozen=True)
class Unusable:
    """A reply, or the lack of one, that nothing can be taken from."""

    reason: str


def _clean(text: str) -> str:
    text.encode()  # half a surrogate pair, which JSON can spell, raises a ValueError
    return _CONTROL.sub(" ", text).strip()


_Text = Annotated[StrictStr, AfterValidator(_clean)]


class _Item(BaseModel):
    model_config = ConfigDict(frozen=True)
    question: _Text
    answer: _Text


class _ItemWithEvidence(_Item):
    evidence: _Text | tuple[_Text, ...]


class _Summary(BaseModel):
    model_config = ConfigDict(frozen=True)
    summary: _Text


def schema_for(request: TaskRequest) -> dict[str, Any]:
    """JSON schema of the reply to `request`."""
    if request.form == "paragraph":
        return {
            "type": "object",
            "properties": {"summary": {"type": "string"}},
            "required": ["summary"],
            "additionalProperties": False,
        }
    return reply_schema(request.windowed)


def read_json(request: TaskRequest, reply: str) -> ParsedReply | Unusable:
    """The tasks that `request` asked for, out of a reply in JSON."""
    if request.form == "paragraph":
        return parse_json_summary(reply)
    return parse_json(reply, with_evidence=request.windowed)


def read_labelled(request: TaskRequest, reply: str) -> ParsedReply | Unusable:
    """The tasks that `request` asked for, out of a reply in labelled lines."""
    if request.form == "paragraph":
        return parse_labelled_summary(reply)
    return parse_labelled(reply, with_evidence=request.windowed)


def reply_schema(with_evidence: bool) -> dict[str, Any]:
    """JSON schema of a reply: an object, since endpoints take no list at the root, with every field required."""
    text = {"type": "string"}
    fields: dict[str, Any] = {"question": text, "answer": text}
    if with_evidence:
        fields["evidence"] = {"type": "array", "items": text}
    item = {"type": "object", "properties": fields, "required": list(fields), "additionalProperties": False}
    return {
        "type": "object",
        "properties": {"tasks": {"type": "array", "items": item}},
        "required": ["tasks"],
        "additionalProperties": False,
    }


def parse_json(reply: str, *, with_evidence: bool) -> ParsedReply | Unusable:
    """The tasks of a reply that is JSON, or in which exactly one JSON list of objects can be found."""
    try:
        items = _items(reply.strip())
    except (ValueError, RecursionError):
        return Unusable("not JSON")
    if items is None:
        return Unusable("not JSON")
    model = _ItemWithEvidence if with_evidence else _Item
    tasks: list[WrittenTask] = []
    for item in items:
        try:
            read = model.model_validate(item)
        except ValidationError:
            continue
        evidence: Any = getattr(read, "evidence", ())
        tasks.append(WrittenTask(read.question, read.answer, (evidence,) if isinstance(evidence, str) else evidence))
    if items and not tasks:
        return Unusable("not of the schema")
    return ParsedReply(tuple(tasks), len(items) - len(tasks))


def parse_labelled(reply: str, *, with_evidence: bool) -> ParsedReply | Unusable:
    """The tasks of lines that begin with Question:, Answer: and, if asked for, Evidence:, in this order.

    Anything else between the lines of a task makes it malformed.
    """
    labels = ["Question", "Answer", "Evidence"] if with_evidence else ["Question", "Answer"]
    lines = [line.strip() for line in reply.splitlines()]
    tasks: list[WrittenTask] = []
    begun = 0
    fields: list[str] = []
    for line in filter(None, lines):
        found = _LABELLED.fullmatch(line)
        if found and found[1] == "Question":
            begun += 1
            fields = [found[2]]
        elif found and fields and found[1] == labels[len(fields) % len(labels)]:
            fields.append(found[2])
        else:
            fields = []
        if len(fields) == len(labels):
            question, answer, *evidence = (_CONTROL.sub(" ", field).strip() for field in fields)
            tasks.append(WrittenTask(question, answer, tuple(evidence)))
            fields = []
    return ParsedReply(tuple(tasks), begun - len(tasks)) if tasks else Unusable("no labelled lines")


def parse_json_summary(reply: str) -> ParsedReply | Unusable:
    """The summary of a reply that is a JSON object with one, or in which exactly one such object can be found."""
    places = [found.start() for found in _SUMMARY_OBJECT.finditer(reply)]
    try:
        whole = json.loads(reply) if len(places) != 1 else json.JSONDecoder().raw_decode(reply, places[0])[0]
        return ParsedReply(summary=_Summary.model_validate(whole).summary)
    except ValidationError:
        return Unusable("not of the schema")
    except (ValueError, RecursionError):
        return Unusable("not JSON")


def parse_labelled_summary(reply: str) -> ParsedReply | Unusable:
    """The text behind the one label Summary of a reply, up to the next blank line."""
    labelled = _SUMMARY_LABEL.split(reply)[1:]
    if len(labelled) != 1:
        return Unusable("several summaries" if labelled else "no labelled lines")
    return ParsedReply(summary=_CONTROL.sub(" ", _BLANK_LINE.split(labelled[0].strip(), maxsplit=1)[0]).strip())


def _items(reply: str) -> list[Any] | None:
    """The one list of the reply, or None; raises ValueError where a list of objects is not whole."""
    try:
        whole = json.loads(reply)
    except ValueError:
        return _only_list(reply)
    if isinstance(whole, dict) and isinstance(whole.get("tasks"), list):
        whole = whole["tasks"]
    return whole if isinstance(whole, list) else _only_list(reply)


def _only_list(reply: str) -> list[Any] | None:
    decoder = json.JSONDecoder()
    lists: list[list[Any]] = []
    at = 0
    while found := _LIST_OF_OBJECTS.search(reply, at):
        value, at = decoder.raw_decode(reply, found.start())
        lists.append(value)
    return lists[0] if len(lists) == 1 else None
