"""Batch sampler: document and tasks -> the optimizer steps of each epoch, with contexts drawn anew for every epoch.

A group of examples shares a long prefix and is best computed together: the tasks behind one context, or a task alone.
What an epoch holds depends on the recipe, the seed, the epoch's number and what is known by then (leitner_sampler.py),
so that an interrupted training goes on where it was. An epoch is planned in numbers of tasks, sentences and segments;
their tokens are made when their batch is due, so that a long text takes no more memory than a short one.
"""

from __future__ import annotations

import random
from array import array
from collections import defaultdict
from collections.abc import Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from lift.adapters.warm_start import WarmStartPassage
from lift.documents.document import Document
from lift.documents.sentences import Sentence
from lift.models.control_tokens import content_ids, encode_content
from lift.packing.contexts import deal_sentences, draw_ends, evidence_text, room_for_context
from lift.packing.prompts import (
    CUT_STEP_TOKENS,
    MAX_ANSWER_TOKENS,
    Example,
    citation_example,
    contextual_segment_example,
    fit_context,
    preserved_example,
    question_example,
    recitation_tokens,
    segment_example,
)
from lift.packing.published_prompts import PROMPT_FORMS
from lift.packing.segments import Segment, segments_of
from lift.packing.trie import split_batches
from lift.recipes.recipe import Recipe
from lift.tasks.generation import Generated
from lift.tasks.task import Task
from lift.tasks.task_file import TaskFile
from lift.training.leitner_sampler import LeitnerSampler

# To be raised where the same tasks and settings are trained otherwise than before: other prompts, examples or updates.
TRAINING_VERSION = 3
KL_PIECE_TOKENS = 256  # of a KL anchor, at most
_QUESTIONS_A_PASSAGE = 3


@dataclass(frozen=True)
class OptimizerStep:
    """The batches that one optimizer step is computed on: one batch, or with training.full_batch all of an epoch's.

    `progress`: the share of the epoch that is done before it, 0 to 1.
    """

    batches: tuple[list[Example], ...]
    progress: float


@dataclass(frozen=True, slots=True)
class SegmentLM:
    """Segment LM: a segment by its number, behind pieces of its part's head and tail, or bare for want of room."""

    segment: int
    ends: tuple[Segment, Segment] | None


@dataclass(frozen=True, slots=True)
class ContextualQA:
    """Contextual QA: tasks by their numbers, behind `sentences` by their numbers, or None: behind the cut document."""

    tasks: Sequence[int]
    sentences: Sequence[int] | None


@dataclass(frozen=True, slots=True)
class KLAnchor:
    """KL anchor: a piece of a passage of other texts by its number, kept near what the base says there."""

    piece: int


@dataclass(frozen=True, slots=True)
class ReplayQA:
    """Replay QA: a passage of other texts by its number, with its questions behind it."""

    passage: int


@dataclass(frozen=True, slots=True)
class QAWithCitation:
    """QA with citation: a task by its number, asked closed book for its answer, and for the sentence that tells it."""

    task: int


# What examples are made of; a number alone is that of a task asked closed book for its answer.
Group = int | QAWithCitation | SegmentLM | ContextualQA | KLAnchor | ReplayQA


class BatchSampler:
    """Samples what is trained in each epoch.

    `window_tokens` is the longest prompt that the base model takes. Segments are those of the document's parts that
    begin at character `start` or after it. `tasks` are read again whenever they are due. `passages` are of other texts.
    """

    def __init__(
        self,
        tokenizer: Any,
        window_tokens: int,
        document: Document,
        sentences: Sequence[Sentence],
        tasks: Sequence[Task],
        recipe: Recipe,
        start: int = 0,
        passages: Sequence[WarmStartPassage] = (),
    ) -> None:
        self._tokenizer = tokenizer
        self._window_tokens = min(window_tokens, recipe.context.window_tokens or window_tokens)
        self._document = document
        self._form = PROMPT_FORMS[recipe.tasks.prompt].about(document.title)
        self._texts = [sentence.text for sentence in sentences]
        self._recipe = recipe
        self._passages = passages if recipe.regularisation.replay_share else ()
        # what is no answer an activated adapter does not touch
        kept = recipe.regularisation.kl_share > 0 and not recipe.adapter.acts_on_answers
        self._others = list(self._cut(passages)) if kept else []
        self._tasks = tasks
        self._trained = array("L")  # numbers of the tasks that are trained
        self._told_in = array("L")  # of each of these, the sentence that holds its answer
        self._ranks = array("L")  # of each task by its number, how many of its sentence's are worth more
        self._most: int | None = None
        self._widest = 0
        self._most_of_one = 0
        self._segments = list(self._tokenised_segments(start)) if recipe.segments.weight else []
        self._count(tasks)
        self.leitner = LeitnerSampler(recipe.training.max_skip_epochs, len(tasks))

    @property
    def epochs(self) -> int:
        """Epochs over segments alone, and then over everything (two-stage; joint where the first are none)."""
        return self._recipe.training.segment_epochs + self._recipe.training.epochs

    def optimizer_steps(self, epoch: int) -> Iterator[OptimizerStep]:
        """The optimiser steps of `epoch`, counted from 0: its groups in random order, cut into batches."""
        steps = self.batch_steps(epoch)
        if self._recipe.training.full_batch:
            yield OptimizerStep(tuple(step.batches[0] for step in steps), 0.0)
        else:
            yield from steps

    def batch_steps(self, epoch: int) -> Iterator[OptimizerStep]:
        """As optimizer_steps, but always with one batch a step, each made when it is asked for."""
        settings = self._recipe.training
        groups = list(self._within_limit(self._due(self.plan(epoch), epoch), []))
        groups += self._of_others(len(groups), epoch)
        random.Random(f"{settings.seed}/{epoch}/order").shuffle(groups)
        left_out: list[int] = []
        within = self._within_limit(groups, left_out)
        examples_of = (self._examples(group) for group in within)
        batches = split_batches(examples_of, settings.batch_tokens, settings.batch_examples)
        done, examples = 0, sum(self._count_examples(group) for group in groups)
        for batch in batches:
            yield OptimizerStep((batch,), (done + sum(left_out)) / examples)
            done += len(batch)

    def limit_tasks(self, per_sentence: int) -> None:
        """From now on, within an epoch too, only the so many weightiest tasks of a sentence are trained."""
        self._most = per_sentence
        self._widest = max(self._widest, per_sentence)

    @property
    def widest_limit(self) -> int | None:
        """The widest limit that there was; None where there was none."""
        return None if self._most is None else self._widest

    def tasks_within(self, per_sentence: int | None) -> Sequence[int]:
        """The numbers of the tasks that are trained under that limit."""
        if per_sentence is None:
            return self._trained
        return [number for number in self._trained if self._ranks[number] < per_sentence]

    @property
    def tasks_per_sentence(self) -> int:
        """The most tasks that are trained of one sentence now."""
        return self._most_of_one if self._most is None else min(self._most, self._most_of_one)

    @property
    def most_per_sentence(self) -> int:
        """The most tasks that are trained of one sentence where there is no limit."""
        return self._most_of_one

    def _within_limit(self, groups: Iterable[Group], left_out: list[int]) -> Iterator[Group]:
        """The groups under the limit of the moment; `left_out` gets the number of examples that are not."""
        for group in groups:
            most, kept = self._most, None
            if most is None or isinstance(group, SegmentLM | KLAnchor | ReplayQA):
                kept = group
            elif isinstance(group, ContextualQA):
                tasks = array("L", (task for task in group.tasks if self._ranks[task] < most))
                kept = ContextualQA(tasks, group.sentences) if tasks else None
            elif self._ranks[group if isinstance(group, int) else group.task] < most:
                kept = group
            if kept is not group:
                left_out.append(self._count_examples(group) - (self._count_examples(kept) if kept is not None else 0))
            if kept is not None:
                yield kept

    def _count_examples(self, group: Group) -> int:
        if isinstance(group, ContextualQA):
            return len(group.tasks)
        if isinstance(group, QAWithCitation):
            return 2
        if isinstance(group, ReplayQA):
            return len(self._passages[group.passage].questions[:_QUESTIONS_A_PASSAGE])
        return 1

    def record(self, epoch: int, examples: Sequence[Example], correct: Sequence[bool]) -> None:
        """These examples came up in `epoch`, and their answers were `correct` or not: known ones may be skipped."""
        for example, known in zip(examples, correct, strict=True):
            # an answer that could be read from the prompt does not show what is known
            if example.task is not None and not example.reads_evidence:
                self.leitner.record(example.task, epoch, known)

    def plan(self, epoch: int) -> list[Group]:
        """The groups of `epoch` before they are shuffled, as if nothing were known."""
        generator = random.Random(f"{self._recipe.training.seed}/{epoch}")
        segments: list[Group] = [*self._recited(generator)]
        if epoch < self._recipe.training.segment_epochs:
            return segments
        return [*segments, *self._asked(self._trained, epoch), *self._contextualised(generator)]

    def _of_others(self, groups: int, epoch: int) -> Iterator[KLAnchor | ReplayQA]:
        """KL anchors and replay QA of other texts beside so many groups, drawn anew in every epoch."""
        settings = self._recipe.regularisation
        generator = random.Random(f"{self._recipe.training.seed}/{epoch}/others")
        kept = min(round(settings.kl_share * groups), len(self._others))
        asked = min(round(settings.replay_share * groups), len(self._passages))
        yield from map(KLAnchor, generator.sample(range(len(self._others)), kept))
        yield from map(ReplayQA, generator.sample(range(len(self._passages)), asked))

    def _cut(self, passages: Sequence[WarmStartPassage]) -> Iterator[array[int]]:
        """The tokens of the passages in pieces, the last one of each as long as it is."""
        for passage in passages:
            ids = array("L", content_ids(self._tokenizer, passage.text))
            yield from (ids[start : start + KL_PIECE_TOKENS] for start in range(0, len(ids) - 1, KL_PIECE_TOKENS))

    def _due(self, groups: Iterable[Group], epoch: int) -> Iterator[Group]:
        """The groups without the tasks that are skipped."""
        for group in groups:
            if isinstance(group, int | QAWithCitation):
                if self.leitner.due(group if isinstance(group, int) else group.task, epoch):
                    yield group
            elif isinstance(group, ContextualQA):
                tasks = array("L", (task for task in group.tasks if self.leitner.due(task, epoch)))
                if tasks:
                    yield ContextualQA(tasks, group.sentences)
            else:
                yield group

    def groups(self, epoch: int) -> list[list[Example]]:
        """The examples of `epoch`, all at once, in the groups of plan."""
        return [list(self._examples(group)) for group in self.plan(epoch)]

    def _count(self, tasks: Iterable[Task], first: int = 0) -> array[int]:
        """Take up `tasks`, numbered from `first` on; returns the numbers of those that are trained."""
        fresh = array("L")
        weights: dict[int, list[tuple[float, int]]] = defaultdict(list)
        if self._recipe.tasks.weight:
            for number, task in enumerate(tasks, first):
                self._ranks.append(0)
                if not task.held_out:
                    fresh.append(number)
                    self._told_in.append(task.evidence[0])
                    weights[task.evidence[0]].append((-task.weight, number))
        for found in weights.values():
            for rank, (_, number) in enumerate(sorted(found)):
                self._ranks[number] = rank
            self._most_of_one = max(self._most_of_one, len(found))
        self._trained.extend(fresh)
        return fresh

    def _tokenised_segments(self, start: int) -> Iterator[tuple[array[int], Segment]]:
        """Each segment with the tokens of the part it belongs to: its title and a line break, if any, and its text."""
        settings = self._recipe.segments
        starts = [part.start for part in self._document.parts] or [0]
        for part, part_start in zip(self._document.split(), starts, strict=True):
            if part_start < start:
                continue
            text = f"{part.title}\n{part.text}" if settings.titled and part.title else part.text
            tokens = encode_content(self._tokenizer, text)
            ids = array("L", tokens.ids)
            for segment in segments_of(text, tokens.offsets, settings):
                yield ids, segment

    def _recited(self, generator: random.Random) -> Iterator[SegmentLM]:
        wanted = self._recipe.context.segment_tokens
        for number, (ids, segment) in enumerate(self._segments):
            used_tokens = recitation_tokens(self._tokenizer) + segment.length_tokens
            room = room_for_context(self._window_tokens, used_tokens, wanted)
            if room:
                yield SegmentLM(number, draw_ends(len(ids), room, generator))
            elif segment.length_tokens > 1:
                yield SegmentLM(number, None)

    def _asked(self, tasks: Sequence[int], epoch: int) -> Iterator[Group]:
        """Closed book each task stands alone; behind the truncated document all of them share its prefix."""
        share = self._recipe.tasks.cited_share
        if self._recipe.context.tasks == "none":
            generator = random.Random(f"{self._recipe.training.seed}/{epoch}/cited")
            yield from (QAWithCitation(task) if generator.random() < share else task for task in tasks)
        elif tasks:
            yield ContextualQA(tasks, None)

    def _contextualised(self, generator: random.Random) -> Iterator[ContextualQA]:
        """The sentences dealt into contexts; each is asked a share of its sentences' tasks."""
        settings = self._recipe.context
        if not settings.share or not self._trained:
            return
        tasks_of: dict[int, list[int]] = defaultdict(list)
        for number, sentence in zip(self._trained, self._told_in, strict=True):
            tasks_of[sentence].append(number)
        for chosen in deal_sentences(len(self._texts), settings.sentences, generator):
            tasks = [number for sentence in chosen for number in tasks_of.get(sentence, ())]
            asked = generator.sample(tasks, min(round(settings.share * len(tasks)), len(tasks)))
            if asked:
                yield ContextualQA(array("L", asked), array("L", chosen))

    def _examples(self, group: Group) -> Iterator[Example]:
        """The examples of a group, each when it is asked for."""
        if isinstance(group, int):
            yield self._example(group, None)
        elif isinstance(group, QAWithCitation):
            yield self._example(group.task, None)
            yield self._citation(group.task)
        elif isinstance(group, SegmentLM):
            yield self._recital(group)
        elif isinstance(group, KLAnchor):
            yield preserved_example(self._others[group.piece], self._recipe.regularisation.kl_weight)
        elif isinstance(group, ReplayQA):
            yield from self._of_passage(self._passages[group.passage])
        else:
            context = None if group.sentences is None else evidence_text(self._texts, group.sentences)
            for number in group.tasks:
                if context is None:
                    yield self._truncated(number)
                else:
                    yield replace(self._example(number, context), drawn_anew=True)

    def _of_passage(self, passage: WarmStartPassage) -> Iterator[Example]:
        for question, answer in passage.questions[:_QUESTIONS_A_PASSAGE]:
            yield question_example(self._tokenizer, question, answer, passage.text, reads_evidence=True)

    def _recital(self, group: SegmentLM) -> Example:
        ids, segment = self._segments[group.segment]
        window, weight = ids[segment.start : segment.end], self._recipe.segments.weight
        if group.ends is None:
            return segment_example(window, weight)
        head, tail = group.ends
        pieces = ids[head.start : head.end], ids[tail.start : tail.end]
        return replace(contextual_segment_example(self._tokenizer, *pieces, window, weight), drawn_anew=True)

    def _truncated(self, number: int) -> Example:
        limit = self._window_tokens - MAX_ANSWER_TOKENS
        question = self._tasks[number].question
        text, _ = fit_context(self._tokenizer, question, self._document.text, limit, CUT_STEP_TOKENS, self._form)
        return self._example(number, text)

    def _citation(self, number: int) -> Example:
        task = self._tasks[number]
        weight = task.weight * self._recipe.tasks.weight
        return citation_example(self._tokenizer, task.question, evidence_text(self._texts, task.evidence), weight)

    def _example(self, number: int, context: str | None) -> Example:
        task = self._tasks[number]
        evidence = evidence_text(self._texts, task.evidence)
        example = question_example(
            self._tokenizer,
            task.question,
            task.answer,
            context,
            task.weight * self._recipe.tasks.weight,
            reads_evidence=context is not None and all(self._texts[index] in context for index in task.evidence),
            teacher_context=evidence if self._recipe.objective.distillation and context is None else None,
            form=self._form,
        )
        return replace(example, task=number)


class StreamedBatchSampler(BatchSampler):
    """A batch sampler whose tasks are still being written: its first epoch over tasks follows them (method 3.2).

    That epoch goes in the document's order, in batches that are full before they are trained, so what is trained does
    not depend on when the answers came: once all are there, the same tasks give the same updates. Later epochs are
    those of Batch sampler. `pieces` is read once.
    """

    def __init__(
        self,
        tokenizer: Any,
        window_tokens: int,
        document: Document,
        sentences: Sequence[Sentence],
        pieces: Generator[Generated],
        recipe: Recipe,
    ) -> None:
        self._written = TaskFile()
        super().__init__(tokenizer, window_tokens, document, sentences, self._written, recipe)
        self._pieces = pieces
        self._position = 0

    @property
    def written(self) -> Sequence[Task]:
        """Every task so far, held-out ones among them, in the document's order."""
        return self._written

    def close(self) -> None:
        """Ask for no more tasks; what is being written is given up."""
        self._pieces.close()

    def optimizer_steps(self, epoch: int) -> Iterator[OptimizerStep]:
        """As BatchSampler.updates; the streamed epoch is computed from pieces as they come."""
        first = self._recipe.training.segment_epochs
        if epoch < first:
            yield from super().optimizer_steps(epoch)
        elif epoch == first:
            yield from self._streamed(epoch)
        else:
            for piece in self._pieces:  # all there already, but for a resumed training that skips the first epoch
                self._take(piece)
            yield from super().optimizer_steps(epoch)

    def _streamed(self, epoch: int) -> Iterator[OptimizerStep]:
        settings = self._recipe.training
        segments = list(self._recited(random.Random(f"{settings.seed}/{epoch}")))
        examples_of = map(self._examples, self._arriving(segments, epoch))
        batches = split_batches(examples_of, settings.batch_tokens, settings.batch_examples)
        if settings.full_batch:
            yield OptimizerStep(tuple(batches), 0.0)
            return
        done = 0.0
        for batch in batches:
            yield OptimizerStep((batch,), done)
            # below 1 even behind the last sentence: its tasks may fill more batches, and 1 would end the training
            done = self._position / (len(self._texts) + 1)

    def _arriving(self, segments: Sequence[SegmentLM], epoch: int) -> Iterator[Group]:
        """Groups in the document's order: each piece's tasks as it arrives, the segments where their share is due."""
        given = 0
        for piece in self._pieces:
            yield from self._asked(self._take(piece), epoch)
            due = len(segments) * piece.position // max(len(self._texts), 1)
            yield from segments[given:due]
            given = max(given, due)
        yield from segments[given:]

    def _take(self, piece: Generated) -> array[int]:
        self._position = piece.position
        first = len(self._written)
        self._written.extend(piece.tasks)
        return self._count(piece.tasks, first)
