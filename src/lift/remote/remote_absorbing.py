"""document + model behind an endpoint + recipe -> memory, as a run of typed events (LIFT for closed models)."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from threading import Event as StopFlag
from typing import Any

from lift.absorbing.absorption_events import AbsorptionEvent, Finished, Probing
from lift.absorbing.preparation import PreparedDocument, learnable_sentences
from lift.absorbing.recall_report import choose_probes, probe_recall
from lift.absorbing.reuse import absorbed_before
from lift.absorbing.task_writing import TaskWriter, prepared, write_tasks
from lift.documents.document import Document
from lift.documents.language import document_language
from lift.endpoints.openai_endpoint import Endpoint, resolve_base_url
from lift.endpoints.retry_policy import RetryPolicy
from lift.errors import UsageError
from lift.memories.library import MemoryLibrary
from lift.memories.manifest import Cost, RecallSummary
from lift.memories.memory import MemoryDraft
from lift.recipes.recipe import Recipe, RemoteSettings
from lift.remote.finetuning_jobs import CANCELLED, ProviderJobEvent
from lift.remote.openai_finetuning import FineTuningEvent, Order, Tuned, cancel_fine_tuning, fine_tune
from lift.remote.price import Estimate, estimate_price, line_limit_tokens
from lift.remote.remote_answering import RemoteAnswerer
from lift.remote.remote_model import RemoteModel, base_fingerprint, base_id
from lift.remote.token_estimate import estimate_tokens
from lift.remote.training_file import build_training_file
from lift.tasks.rules.rule_generator import RULES_VERSION
from lift.tasks.selection import hold_some_out
from lift.training.budget import Budget

RemoteEvent = FineTuningEvent | AbsorptionEvent


def absorb_remotely(
    document: Document,
    model: str,
    recipe: Recipe,
    library: MemoryLibrary,
    *,
    confirm: Callable[[Estimate], bool],
    name: str | None = None,
    stop: StopFlag | None = None,
    cancel_on_stop: bool = False,
    started: float | None = None,
    retry_policy: RetryPolicy | None = None,
) -> Iterator[RemoteEvent]:
    """Fine-tune `model` (its name at the endpoint) on `document`, and put the memory into `library`.

    Tasks are written by the recipe's generator, as for a local model. `confirm` is shown the estimate before anything
    is uploaded. A document that was absorbed before with the same model, endpoint and recipe costs nothing again, and
    a run that was interrupted anywhere goes on where it was. When `stop` is set InterruptedAbsorption is raised; the
    job goes on, or with `cancel_on_stop` is cancelled. Raises DocumentError, GenerationError, LibraryError, UsageError
    for a bad base URL or a generator that needs a local model, and RemoteError for all that the endpoint does.
    """
    started = time.monotonic() if started is None else started
    settings = recipe.remote
    base_url = resolve_base_url(settings.base_url)
    paid_key = fine_tuning_key(document, model, base_url, recipe, settings)
    key = _digest([paid_key, settings.window_tokens, settings.probes])
    name = library.check_free(name, key) if name else None
    if (known := absorbed_before(library, key, name)) is not None:
        yield Finished(known, None, time.monotonic() - started, 0.0, reused=True)
        return
    name = name or library.free_name(document.title)
    made = _prepare_document(document)
    sentences = made.sentences
    writer = TaskWriter(made, None, recipe)
    written = yield from write_tasks(made, writer, Budget(None, started))
    # an endpoint costs money, and its memory is never without a report of what it recalls
    tasks = tuple(hold_some_out(written, trained=recipe.tasks.weight > 0))
    yield prepared(made, tasks, writer)
    file = build_training_file(document, tasks, recipe, line_limit_tokens(model, base_url, settings.window_tokens))
    estimate = estimate_price(file, model, base_url, settings.epochs)
    order = Order(paid_key, model, file, settings, recipe.training.seed, estimate)
    training: list[ProviderJobEvent] = []
    tuned: Tuned | None = None
    with library.unfinished.alone(paid_key), Endpoint(base_url, retry_policy, stop) as endpoint:
        directory = library.unfinished.path(paid_key)
        for event in fine_tune(endpoint, order, directory, confirm, cancel_on_stop=cancel_on_stop):
            if isinstance(event, ProviderJobEvent) and event.metrics:
                training.append(event)
            elif isinstance(event, Tuned):
                tuned = event
            yield event
        assert tuned is not None, "fine_tune ends with Tuned or raises"
        answerer = RemoteAnswerer(endpoint, tuned.model, document, sentences, settings.window_tokens)
        probes = choose_probes(tasks, settings.probes)
        yield Probing(len(probes))
        report = probe_recall(answerer, len(sentences), probes)
    remote = RemoteModel(
        base_url=base_url, base=model, model=tuned.model, job_id=tuned.job_id, window_tokens=settings.window_tokens
    )
    draft = MemoryDraft(
        name=name if name not in library else library.free_name(name),  # taken by another process meanwhile
        document=document,
        base_id=base_id(model),
        base_fingerprint=base_fingerprint(model, base_url),
        recipe_name=recipe.name,
        recipe=recipe.model_dump(),
        seeds={"training": recipe.training.seed},
        absorption_key=key,
        adapter_config=remote.model_dump(),
        adapter_state={},
        tasks=tasks,
        training=[_training_row(event) for event in training],
        generation=writer.counts.as_dict(),
        recall=report.rows(),
        recall_summary=RecallSummary(
            sentences=report.sentences, probed=len(report.probed), recalled=len(report.recalled)
        ),
        document_tokens=made.tokens,
        sentences=len(sentences),
        cost=Cost(
            seconds=time.monotonic() - started,
            steps=len(training),
            tokens=estimate.billed_tokens if tuned.trained_tokens is None else tuned.trained_tokens,
            device=base_url,
        ),
    )
    memory = library.put(draft)
    library.unfinished.clear(paid_key)
    yield Finished(memory, report, time.monotonic() - started, 0.0, reused=False)


def cancel_remotely(
    document: Document, model: str, recipe: Recipe, library: MemoryLibrary, *, retry_policy: RetryPolicy | None = None
) -> str:
    """Cancel the fine-tuning that `absorb_remotely` with the same arguments has begun; says in a sentence what became.

    Raises UsageError where no such job is known, RemoteError where the endpoint refuses.
    """
    base_url = resolve_base_url(recipe.remote.base_url)
    key = fine_tuning_key(document, model, base_url, recipe, recipe.remote)
    with Endpoint(base_url, retry_policy) as endpoint:
        job = cancel_fine_tuning(endpoint, key, library.unfinished.path(key))
    if job is None:
        raise UsageError(
            f"expected a job at {base_url} for this text, model and recipe, found none; there is nothing to cancel"
        )
    if job.status == CANCELLED:
        return f"the job {job.id} is cancelled; what it had trained by then may be billed"
    return f"the job {job.id} had ended before ({job.status})"


def _prepare_document(document: Document) -> PreparedDocument:
    """The document before its tasks are written; its tokens are estimated."""
    language = document_language(document)
    document = replace(document, language=language)
    sentences = learnable_sentences(document)
    return PreparedDocument(document, estimate_tokens(document.text), language, sentences, document.warnings)


def fine_tuning_key(document: Document, model: str, base_url: str, recipe: Recipe, settings: RemoteSettings) -> str:
    """Identity of what is paid for: the same text, title, model, endpoint and settings give the same fine-tuned model.

    How often a job is looked at, what is asked afterwards and how long prompts may be change nothing about it.
    """
    paid = settings.model_dump(exclude={"base_url", "poll_s", "probes", "window_tokens"})
    rules = RULES_VERSION if recipe.generator.kind == "rules" else None
    return _digest([document.sha256, document.title, base_fingerprint(model, base_url), recipe.digest(), rules, paid])


def _digest(parts: list[Any]) -> str:
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def _training_row(event: ProviderJobEvent) -> dict[str, float]:
    """A line of training.jsonl: the endpoint's own names of its numbers, and `loss` as local memories have it."""
    row = dict(event.metrics)
    if "train_loss" in row:
        row["loss"] = row["train_loss"]
    return row
