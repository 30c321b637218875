"""The tasks of a document, written by the generator that the recipe names."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Generator, Sequence
from functools import cached_property

from lift.absorbing.absorption_events import AbsorptionEvent, Prepared, Writing
from lift.absorbing.preparation import PreparedDocument
from lift.errors import GenerationError
from lift.models.base_model import BaseModel
from lift.recipes.recipe import Recipe
from lift.tasks.generation import Generated, GenerationCounts, TaskGenerator
from lift.tasks.generator import open_generator
from lift.tasks.task import Task
from lift.tasks.task_file import TaskFile
from lift.training.budget import Budget

_SAY_EVERY_S = 1.0
# Of what is left of a budget, what writing tasks may take.
_WRITING_SHARE = 0.35


class TaskWriter:
    """The tasks of a document, or of its parts from character `start` on, each part under its own title.

    No task is written where the recipe neither trains on tasks nor holds any out. `base` is what the generator `self`
    asks; the others do without.
    """

    def __init__(self, made: PreparedDocument, base: BaseModel | None, recipe: Recipe, start: int = 0) -> None:
        self._prepared = made
        self._base = base
        self._recipe = recipe
        self._start = start
        self.position: int | None = None  # sentences that are done, None before the first

    @cached_property
    def _generators(self) -> list[tuple[TaskGenerator, int]]:
        """A generator for each part, and how many sentences come before that part."""
        document = self._prepared.document
        starts = [part.start for part in document.parts] or [0]
        titles = [part.title for part in document.parts] or [document.title]
        ends = [*starts[1:], len(document.text) + 1]
        found = []
        begins = [sentence.start for sentence in self._prepared.sentences]
        for title, start, end in zip(titles, starts, ends, strict=True):
            sentences = self._prepared.sentences[bisect_left(begins, start) : bisect_left(begins, end)]
            if start >= self._start and sentences:
                opened = open_generator(title, sentences, self._recipe, self._base, self._prepared.language)
                found.append((opened, sentences[0].index))
        return found

    @property
    def skipped(self) -> int:
        """Sentences before the first that tasks are written about."""
        return self._generators[0][1] if self._generators else 0

    @property
    def counts(self) -> GenerationCounts:
        """The counts of the generators of all parts: asked, got and rejected so far."""
        total = GenerationCounts()
        for generator, _ in self._generators:
            total.add(generator.counts)
        return total

    @property
    def requests(self) -> tuple[int, int]:
        """How many requests to a language model the document takes, and how many of them are answered in the cache."""
        generators = [generator for generator, _ in self._generators]
        return sum(each.counts.requests for each in generators), sum(each.cached_requests for each in generators)

    @property
    def wanted(self) -> int:
        """How many tasks the recipe states for the whole document; 0 where it states none, or trains on none."""
        tasks = self._recipe.tasks
        return tasks.per_document * len(self._generators) if tasks.weight else 0

    def stream(self) -> Generator[Generated]:
        """Pieces in the document's order as they are written, `position` counting over the whole document.

        Raises GenerationError. Closing the iterator ends what is still outstanding.
        """
        tasks = self._recipe.tasks
        if not tasks.weight and not tasks.held_out_per_sentence:
            return
        for generator, before in self._generators:
            for piece in generator.stream():
                self.position = before + piece.position
                yield Generated(self.position, piece.tasks)


def write_tasks(
    made: PreparedDocument, writer: TaskWriter, budget: Budget
) -> Generator[AbsorptionEvent, None, TaskFile]:
    """The tasks of a generator, with Writing every second that a language model takes (rules write all at once).

    Of a budget they may take a share; what is not written by then is left out, once there is anything to train on.
    """
    tasks = TaskFile()
    begun = said = budget.clock()
    ends_at = begun + _WRITING_SHARE * budget.left_s()
    trained = False
    for piece in writer.stream():
        tasks.extend(piece.tasks)
        trained = trained or any(not task.held_out for task in piece.tasks)
        now, counts = budget.clock(), writer.counts
        if now > ends_at and trained:
            break
        if counts.requests and now - said >= _SAY_EVERY_S:
            said = now
            left = len(made.sentences) - piece.position
            yield Writing(
                sentences_done=piece.position,
                sentences=len(made.sentences),
                kept=len(tasks),
                failed=sum(counts.failed.values()),
                rejected=sum(counts.rejected.values()),
                eta_s=(now - begun) * left / max(piece.position - writer.skipped, 1),
            )
    check_written(made, tasks, writer)
    return tasks


def check_written(made: PreparedDocument, tasks: Sequence[Task], writer: TaskWriter) -> None:
    """Raise GenerationError where a recipe states how many tasks a document gets, and it has got none."""
    if writer.wanted and all(task.held_out for task in tasks):
        counts = writer.counts
        raise GenerationError(
            f"{made.document.source}: expected {writer.wanted} tasks, got none that can be trained on"
            f"{_reasons(counts)}; use another generator (generator.kind), or leave the tasks out with tasks.weight=0"
        )


def _reasons(counts: GenerationCounts) -> str:
    """Why tasks are missing: " (3 not JSON, 2 unsupported)"; empty where nothing was rejected or has failed."""
    found = counts.failed + counts.rejected
    return f" ({', '.join(f'{count} {reason}' for reason, count in found.most_common())})" if found else ""


def prepared(made: PreparedDocument, tasks: Sequence[Task], writer: TaskWriter, *, streaming: bool = False) -> Prepared:
    """The event that tells what a document was split into."""
    held_out = sum(task.held_out for task in tasks)
    warnings = made.warnings
    if not streaming and writer.position is not None and writer.position < len(made.sentences):
        warnings += (
            f"the budget left time for questions about {writer.position:,} of {len(made.sentences):,} sentences; "
            "more time teaches more",
        )
    elif not streaming and (kept := len(tasks) if writer.counts.requests else len(tasks) - held_out) < writer.wanted:
        warnings += (f"{kept} of {writer.wanted} tasks could be written{_reasons(writer.counts)}",)
    if not held_out and not streaming:
        warnings = (*warnings, "no question is held out from the training, so there will be no recall report")
    return Prepared(
        title=made.document.title,
        tokens=made.tokens,
        sentences=len(made.sentences),
        tasks=len(tasks) - held_out,
        held_out=held_out,
        language=made.language,
        warnings=warnings,
        generation=writer.counts.as_dict(),
        streaming=streaming,
    )
