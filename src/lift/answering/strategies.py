"""Strategies from a question about a document to its answer, as steps that anything may run (steps.py).

closed book   The memory answers; one that has learned to cite also says the sentence that tells the answer, and what
              can be read in that sentence is another answer (recitation before answering, arXiv 2210.01296).
reading       The part of the document that the context names stands before the question.
auto          A few sentences of evidence are read, or that one alone which holds all that the question says, and the
              memory is asked closed book. Where they differ, or the reader finds no answer, as many sentences again
              are read behind the first, and all are reranked (reranking.py) behind both. A memory that reads for
              itself scores both answers behind the evidence: it has what it knows in mind then, and a second term
              would count it twice. That the text does not tell is an answer among the others: it wins where the
              reader finds it much likelier than reader and memory together find the best of them. Where sentences are
              asked for (prose.py), the base model writes them, or the document is quoted.
yes or no     A small reader answers "Are dogs allowed?" with "the inn". Where the document may be read, such a
              question is answered by the sentence that speaks of all that is asked, behind a yes or no where rules are
              sure of it (attribution/polar.py), and no model is asked. Else it goes the usual way. A tuned reader is
              believed where it finds no answer, but not where it says yes or no, which it does by chance: the sentence
              that fits best is quoted, unsupported. Where nothing but words of grammar comes of another ("not"), it is
              said that nothing is told.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from statistics import fmean
from typing import Any

from lift.answering.abstention import MEMORY_TELLS_NOTHING
from lift.answering.answer import Answer, Evidence, supported_answer
from lift.answering.attribution.attribute import says_nothing, verdict
from lift.answering.attribution.polar import PolarVerdict
from lift.answering.attribution.question_form import question_form
from lift.answering.prose import PROSE_TOKENS, answer_tokens, asks_for_prose, repeats_itself
from lift.answering.refusal import declines, kept_refusals
from lift.answering.reranking import CITING_PMI_WEIGHT, PMI_WEIGHT, REFUSAL_MARGIN_NATS, vote
from lift.answering.scoring import f1
from lift.answering.steps import GenerateRequest, ScoreRequest, Strategy, check_prompt_chars, fit_window
from lift.documents.document import Document
from lift.documents.retrieval import SentenceIndex
from lift.documents.sentences import Sentence, joined
from lift.errors import UsageError
from lift.models.base_model import BaseModel
from lift.models.control_tokens import content_ids
from lift.models.template_text import NO_QUOTES, TemplateQuotes
from lift.packing.prompts import (
    CUT_STEP_TOKENS,
    PLAIN_FORM,
    TEXT_TELLS_NOTHING,
    PromptForm,
    citation_question,
    fit_context,
    prompt_ids,
)

VERSION = 9  # to be raised where a question may get another answer than before: kept answers are asked for anew then
EVIDENCE_SENTENCES = 3
WIDE_SENTENCES = (
    2 * EVIDENCE_SENTENCES
)  # for what retrieval ranks too low; a small reader answers less well behind them
MAX_CITED_TOKENS = 96
AGREEMENT_F1 = 0.5
CARRIED_COVERAGE = 0.6
Render = Callable[[str, str | None], Sequence[int]]  # question, text in front of it -> tokens


@dataclass(frozen=True)
class Prompt:
    """A question as the model reads it: `ids`, tokens, with the text that `context` says; `truncated`: it was cut."""

    question: str
    context: str
    ids: tuple[int, ...]
    truncated: bool


@dataclass(frozen=True)
class AnsweringAdapters:
    """Who answers, by the names under which they are attached; None is the base model alone.

    `memory`: what knows the document. `reader`: what reads for it, the memory itself where there is no other.
    `cites`: the memory has learned to say the sentence that tells an answer.
    """

    memory: str | None = None
    reader: str | None = None
    cites: bool = False


class Strategies:
    """Strategies to the answers of questions about one document.

    `truncated_tokens` bounds the prompt of a truncated context, as it was bounded in training; 0: the model's window.
    `form`: the words around every question.
    """

    def __init__(
        self,
        base: BaseModel,
        document: Document,
        sentences: Sequence[Sentence],
        adapters: AnsweringAdapters,
        truncated_tokens: int = 0,
        form: PromptForm = PLAIN_FORM,
    ) -> None:
        self.document = document
        self.adapters = adapters
        self.quotes = TemplateQuotes.of(base.tokenizer, document.text)
        self.index = SentenceIndex(sentences)
        self._base = base
        self._truncated_tokens = truncated_tokens
        self._form = form
        self._render: Render = lambda question, text: prompt_ids(base.tokenizer, question, text, form)

    def rendering(self, render: Render, *, continues: bool = False) -> Strategies:
        """The same strategies with prompts of other tokens: `render` gets the question and the text before it.

        What of the document fits the window is still found for the question alone. A text that one `continues` is no
        answer, and may say what the chat template says.
        """
        other = copy.copy(self)
        other._render = render
        if continues:
            other.quotes = NO_QUOTES
        return other

    def to(self, question: str, context: str, max_new_tokens: int | None = None) -> Strategy[Answer]:
        """The strategy for that context; without `max_new_tokens` the answer may be as long as such a question wants.

        It raises UsageError where a text does not fit the window; `to` itself does where a question never can.
        """
        check_prompt_chars(len(question), self._base.window_tokens)
        context = self._readable(context)
        most_tokens = max_new_tokens or answer_tokens(question)
        if self._wants_yes_or_no(question):
            strategy = self._yes_or_no(question, context, most_tokens, max_new_tokens or PROSE_TOKENS)
        else:
            strategy = self._open(question, context, most_tokens)
        return self._within_window(self._without_quotes(strategy))

    def _open(self, question: str, context: str, max_new_tokens: int) -> Strategy[Answer]:
        """The strategy of a question as a model answers it."""
        if context == "auto" and self.adapters.memory is not None:
            if asks_for_prose(question):
                return self._prose(question, max_new_tokens)
            return self._auto(question, max_new_tokens)
        if context == "none" and self.adapters.cites:
            return self._recall(question, max_new_tokens)
        return self._once(question, "evidence" if context == "auto" else context, max_new_tokens)

    def once(self, question: str, context: str, max_new_tokens: int) -> Strategy[Answer]:
        """The strategy of one text, whatever the memory has learned: its own with that context, none but "auto".

        Raises UsageError as `to`.
        """
        check_prompt_chars(len(question), self._base.window_tokens)
        return self._within_window(self._without_quotes(self._once(question, self._readable(context), max_new_tokens)))

    def _readable(self, context: str) -> str:
        """The context, or none where the document has no sentence: an adapter of others may come without a text."""
        return context if self.index.sentences else "none"

    def _without_quotes(self, strategy: Strategy[Answer]) -> Strategy[Answer]:
        """The strategy with texts that quote the chat template cut there: one that begins so has said nothing."""
        results: Sequence[Any] | None = None
        while True:
            try:
                requests = next(strategy) if results is None else strategy.send(results)
            except StopIteration as stop:
                answer: Answer = stop.value
                return answer
            told = yield requests
            results = [self.quotes.without(each) if isinstance(each, str) else each for each in told]

    def _within_window(self, strategy: Strategy[Answer]) -> Strategy[Answer]:
        """The strategy, if each of its prompts leaves room in the window for what is to be said behind it.

        What is said behind a text that was generated may be as long as there is room. Raises UsageError.
        """
        results: Sequence[Any] | None = None
        while True:
            try:
                requests = next(strategy) if results is None else strategy.send(results)
            except StopIteration as stop:
                answer: Answer = stop.value
                return answer
            window_tokens, begun = self._base.window_tokens, results is not None
            results = yield [
                fit_window(request, window_tokens, 1 if begun else request.max_new_tokens)
                if isinstance(request, GenerateRequest)
                else request
                for request in requests
            ]

    def _once(self, question: str, context: str, max_new_tokens: int) -> Strategy[Answer]:
        prompt = self.prompt(question, context, max_new_tokens)
        (text,) = yield [GenerateRequest(self.adapters.memory, prompt.ids, max_new_tokens)]
        return self.answer(prompt, text)

    def in_one_step(self, context: str, question: str = "") -> bool:
        """Whether the strategy is one text alone, so that it can be shown while it comes.

        Without a question, whether that is so for all but yes/no questions, and no other adapter reads for the memory.
        """
        if self._wants_yes_or_no(question) and context in ("auto", "evidence", "none"):
            return False
        if context == "auto":
            return self.adapters.memory is None
        return context != "none" or not self.adapters.cites

    def prompt(
        self, question: str, context: str, max_new_tokens: int, evidence: Sequence[Sentence] | None = None
    ) -> Prompt:
        """The prompt that the model reads to answer; `context` is none but "auto", `evidence`: not the usual sentences.

        Raises UsageError as `to`.
        """
        text, cut = self._context_text(question, context, max_new_tokens, evidence)
        return Prompt(question, context, self._ids(question, text), cut)

    def answer(self, prompt: Prompt, text: str) -> Answer:
        """The answer made of the text behind `prompt`, with its supporting sentence; the executor knows its time."""
        return supported_answer(
            self.index,
            self.document,
            prompt.question,
            text,
            context=prompt.context,
            truncated=prompt.truncated,
            prompt_tokens=len(prompt.ids),
            seconds=0.0,
        )

    def _yes_or_no(self, question: str, context: str, most_tokens: int, quoted_tokens: int) -> Strategy[Answer]:
        """The sentence that answers, where the text may be read; else a model's answer, unless that tells nothing."""
        reads = context in ("auto", "evidence")
        told = verdict(self.index, self.document, question) if reads else None
        text = self._verdict_text(told, quoted_tokens) if told else ""
        if told and text:
            evidence = Evidence.of(self.document, told.source.sentence, "supports")
            return Answer(text, "evidence", (evidence,), True, False, prompt_tokens=0, seconds=0.0)
        answer = yield from self._open(question, context, most_tokens)
        if reads and self.adapters.reader not in (None, self.adapters.memory):
            return answer if declines(answer.text) else self._quote(question, answer, quoted_tokens)
        if context in ("truncated", "full") or not says_nothing(answer.text):
            return answer
        nothing = MEMORY_TELLS_NOTHING if context == "none" else TEXT_TELLS_NOTHING
        return replace(answer, text=nothing, evidence=(), supported=False)

    def _quote(self, question: str, answer: Answer, most_tokens: int) -> Answer:
        """The answer with what is quoted in its place: the sentence that fits best; that nothing tells it without one.

        A sentence of more than so many tokens stands beside that alone.
        """
        best = self.index.search(question, 1)
        if not best:
            return replace(answer, text=TEXT_TELLS_NOTHING, context="evidence", evidence=(), supported=False)
        beside = (Evidence.of(self.document, best[0], "related"),)
        if len(content_ids(self._base.tokenizer, best[0].text)) > most_tokens:
            return replace(answer, text=TEXT_TELLS_NOTHING, context="evidence", evidence=beside, supported=False)
        return replace(answer, text=best[0].text, context="evidence", evidence=beside, supported=False)

    def _wants_yes_or_no(self, question: str) -> bool:
        return bool(self.index.sentences) and question_form(question).wants == "polar"

    def _verdict_text(self, told: PolarVerdict, most_tokens: int) -> str:
        """The sentence behind the yes or no that it says; yes or no alone where both are more than so many tokens."""
        word = {1: "Yes.", -1: "No."}.get(told.sign, "")
        text = f"{word} {told.source.sentence.text}".strip()
        fits = len(self._base.tokenizer(text, add_special_tokens=False)["input_ids"]) <= most_tokens
        return text if fits else word

    def _recall(self, question: str, max_new_tokens: int) -> Strategy[Answer]:
        """Closed book by a memory that cites."""
        bare = self.prompt(question, "none", max_new_tokens)
        said, cited = yield [GenerateRequest(self.adapters.memory, bare.ids, max_new_tokens), self._citing(question)]
        recited = self._ids(question, cited)
        read = yield from self._read(recited, max_new_tokens)
        told = [text for text in (read, said) if text and not declines(text)] or [said]
        chosen = yield from self._rerank(told, bare.ids, [recited], CITING_PMI_WEIGHT)
        return self.answer(bare, chosen or "")

    def _auto(self, question: str, max_new_tokens: int) -> Strategy[Answer]:
        """Read in the evidence and recall closed book; where these differ, read in more evidence and rerank."""
        alone = self.index.holder(question)
        narrow = self.prompt(question, "evidence", max_new_tokens, [alone] if alone else None)
        bare = self.prompt(question, "none", max_new_tokens)
        reading = GenerateRequest(self.adapters.reader, narrow.ids, max_new_tokens)
        read, said = yield [reading, GenerateRequest(self.adapters.memory, bare.ids, max_new_tokens)]
        read = yield from self._kept(reading, read)
        reads_itself = self.adapters.reader == self.adapters.memory
        differ = not reads_itself and (declines(read) or read != said)
        shown, texts = [narrow], [read]
        if differ:
            more = self.index.evidence(question, WIDE_SENTENCES, read=EVIDENCE_SENTENCES)
            wide = self.prompt(question, "evidence", max_new_tokens, more)
            if wide.ids != narrow.ids:
                shown.append(wide)
                texts.append((yield from self._read(wide.ids, max_new_tokens)))
        told = [text for text in texts if reads_itself or not declines(text)]
        pmi_weight = 0.0 if reads_itself else PMI_WEIGHT
        prompts = [prompt.ids for prompt in shown]
        chosen = yield from self._rerank((*told, said), bare.ids, prompts, pmi_weight, may_refuse=differ)
        if chosen is None:
            nothing = self.answer(narrow, TEXT_TELLS_NOTHING)
            return self._with_best_sentence(question, replace(nothing, evidence=(), supported=False))
        behind = next((prompt for prompt, text in zip(shown, texts, strict=True) if text == chosen), bare)
        answer = self.answer(behind, chosen)
        agreed = all(f1(chosen, [other]) > AGREEMENT_F1 for other in (*told, said))
        return answer if agreed else self._with_best_sentence(question, answer)

    def _read(self, ids: tuple[int, ...], max_new_tokens: int) -> Strategy[str]:
        """The reader's answer behind a prompt; that it tells nothing only where it is sure of that."""
        asked = GenerateRequest(self.adapters.reader, ids, max_new_tokens)
        (text,) = yield [asked]
        return (yield from self._kept(asked, text))

    def _kept(self, asked: GenerateRequest, text: str) -> Strategy[str]:
        """The text, unless it is a refusal that a tuned reader is not sure of; a memory has learned none."""
        if self.adapters.reader == self.adapters.memory:
            return text
        (kept,) = yield from kept_refusals(self._base.tokenizer, [asked], [text])
        return kept

    def _prose(self, question: str, max_new_tokens: int) -> Strategy[Answer]:
        """The text of the base model, which nothing has made brief, behind more of the document, if that carries it.

        Else the document is quoted: a model that cannot write about what it reads says what it has heard elsewhere.
        """
        shown = self.index.evidence(question, WIDE_SENTENCES)
        prompt = self.prompt(question, "evidence", max_new_tokens, shown)
        (text,) = yield [GenerateRequest(None, prompt.ids, max_new_tokens)]
        told = f"{question} {joined(shown)}"
        if not text or repeats_itself(text) or self.index.coverage(text, told) < CARRIED_COVERAGE:
            text = self._quotation(question, max_new_tokens) or text
        return self.answer(prompt, text)

    def _quotation(self, question: str, most_tokens: int) -> str:
        """The usual sentences of evidence, or as many of the best as are not more than so many tokens."""
        for count in range(EVIDENCE_SENTENCES, 0, -1):
            text = joined(self.index.evidence(question, count))
            if len(content_ids(self._base.tokenizer, text)) <= most_tokens:
                return text
        return ""

    def _citing(self, question: str) -> GenerateRequest:
        return GenerateRequest(self.adapters.memory, self._ids(citation_question(question), None), MAX_CITED_TOKENS)

    def _rerank(
        self,
        texts: Sequence[str],
        bare_ids: tuple[int, ...],
        shown: Sequence[tuple[int, ...]],
        pmi_weight: float,
        *,
        may_refuse: bool = False,
    ) -> Strategy[str | None]:
        """The likeliest of the texts, the first where nothing speaks for another; silence never wins.

        `shown`: the prompts that the reader scores them behind. None where it `may_refuse`, and refuses all of them.
        """
        candidates = tuple(dict.fromkeys(text for text in texts if text))
        if not candidates:
            return None if may_refuse else texts[0]
        if len(candidates) == 1 and not may_refuse:
            return candidates[0]
        reader, memory = self.adapters.reader, self.adapters.memory
        prior = reader if reader != memory else None
        refusal = (TEXT_TELLS_NOTHING,) if may_refuse else ()
        asked = [ScoreRequest(reader, ids, candidates + refusal) for ids in shown]
        if pmi_weight:
            asked += [ScoreRequest(adapter, bare_ids, candidates) for adapter in (memory, prior)]
        scored = yield asked
        read = [fmean(each) for each in zip(*scored[: len(shown)], strict=True)]
        scores = vote(read[: len(candidates)], *scored[len(shown) :], pmi_weight=pmi_weight)
        if may_refuse and read[-1] - max(scores) > REFUSAL_MARGIN_NATS:
            return None
        return candidates[scores.index(max(scores))]

    def _with_best_sentence(self, question: str, answer: Answer) -> Answer:
        """The answer with the sentence that fits the question best beside the one that supports it."""
        found = self.index.search(question, 1)
        new = [each for each in found if all(each.index != known.sentence for known in answer.evidence)]
        beside = [Evidence.of(self.document, each, "related") for each in new]
        return replace(answer, evidence=(*answer.evidence, *beside))

    def _ids(self, question: str, text: str | None) -> tuple[int, ...]:
        return tuple(self._render(question, text))

    def _context_text(
        self, question: str, context: str, max_new_tokens: int, evidence: Sequence[Sentence] | None
    ) -> tuple[str | None, bool]:
        window_tokens = self._base.window_tokens - max_new_tokens
        tokenizer = self._base.tokenizer
        if context == "none":
            return None, False
        if context == "evidence":
            found = self.index.evidence(question, EVIDENCE_SENTENCES) if evidence is None else evidence
            return fit_context(tokenizer, question, joined(found), window_tokens, form=self._form)
        if context == "truncated" and self._truncated_tokens:
            window_tokens = min(window_tokens, self._truncated_tokens - max_new_tokens)
        text, cut = fit_context(tokenizer, question, self.document.text, window_tokens, CUT_STEP_TOKENS, self._form)
        if cut and context == "full":
            raise UsageError(
                f"the whole text does not fit the model's window of {self._base.window_tokens} tokens; "
                "use --context truncated, evidence or auto"
            )
        return text, cut
