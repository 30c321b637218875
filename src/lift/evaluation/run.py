"""suites x documents x methods -> answers, scores, costs and harms on disk; what is there already is not done again.

Every line carries the hash of all that determines it. A run that was killed goes on from its last answer; memories and
answers are found by their content. Whatever cannot be answered is a line with an error, and counts as wrong.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from statistics import fmean
from threading import Event as StopFlag
from typing import Any

import filelock

from lift.absorbing.resolved_recipe import check_local
from lift.adapters.warm_start import WarmStart, find_reader, find_warm_start
from lift.endpoints.reply_cache import ReplyCache
from lift.errors import DataError, InterruptedAbsorption, LiftError, UsageError
from lift.evaluation.abstention_scores import measure_abstention
from lift.evaluation.cached_reader import CachedReader
from lift.evaluation.evaluation_events import Absorbing, Answered, AskingProgress, EvaluationEvent, SuiteRead
from lift.evaluation.harms import Ability, harm_row, measure_ability
from lift.evaluation.judge import Judge, measure_agreement
from lift.evaluation.memory_store import MemoryStore
from lift.evaluation.method_runs import MethodRun, make_jobs
from lift.evaluation.methods.method import AskedQuestion, Lookup, ShownPassage
from lift.evaluation.methods.method_registry import find_methods
from lift.evaluation.metrics import check_metrics
from lift.evaluation.paper.loogle_judge import LoogleJudge
from lift.evaluation.reader import ModelReader, QuestionBatch, Reader, Reply
from lift.evaluation.result_lines import cost_line, result_line
from lift.evaluation.run_description import describe_run, describe_suite
from lift.evaluation.run_files import (
    COSTS_FILE,
    HARMS_FILE,
    PLAN_FILE,
    RESULTS_FILE,
    RUN_FILE,
    append_row,
    read_rows,
    read_value,
    write_rows,
    write_value,
)
from lift.evaluation.suite_plan import RunPlan, located
from lift.evaluation.suite_reading import SuiteRecords, read_suite
from lift.memories.memory import StoredMemory
from lift.models.base_model import BaseModel
from lift.recipes.recipe import Recipe

_Identity = tuple[str, ...]
_BATCH = 16  # questions between two looks at whether to stop


class Evaluation:
    """One evaluation in the directory `out`. `base` is the model, or `remote` a model at an endpoint, without memories.

    `command` is what the report says was run; `judge_labels` is what the judge is measured on, and `loogle_judge` gives
    the verdicts of the published tables beside its own. Raises UsageError for
    methods that a remote model cannot do, for unknown suites, methods and settings.
    """

    def __init__(
        self,
        plan: RunPlan,
        out: Path,
        base: BaseModel | None,
        *,
        command: str = "",
        remote: Reader | None = None,
        judge: Judge | None = None,
        loogle_judge: LoogleJudge | None = None,
        judge_labels: Path | None = None,
        skip_bad: bool = False,
        stop: StopFlag | None = None,
    ) -> None:
        names = [name for suite in plan.suite for name in suite.methods or plan.methods]
        self.plan = plan
        self.out = out
        self.base = base
        self.command = command
        self.methods = {method.name: method for method in find_methods(names)}
        self.suites: list[SuiteRecords] = []
        self._remote = remote
        self._judge = judge
        self._loogle_judge = loogle_judge
        self._judge_labels = judge_labels
        self._skip_bad = skip_bad
        self._stop = stop or StopFlag()
        self._abilities: dict[str, Ability] = {}
        if remote is not None and plan.window_tokens:
            raise UsageError("a model at an endpoint has a window of its own here; leave window_tokens out of the plan")
        if remote is not None and (needing := [name for name, each in self.methods.items() if each.memory != "none"]):
            raise UsageError(f"a model at an endpoint has no memories here; leave out the methods {', '.join(needing)}")
        (out / "cache").mkdir(parents=True, exist_ok=True)

    def run(self) -> Iterator[EvaluationEvent]:
        """Do what is missing, yielding what happens; the files are complete when this ends.

        Raises DataError for faulty data or files, InterruptedAbsorption when `stop` is set; the same run goes on then.
        """
        begun = time.monotonic()
        with self._locked():
            self._open_files()
            for suite in self.plan.suite:
                read = read_suite(suite, self._reader(None).offsets, skip_bad=self._skip_bad)
                self.suites.append(read)
                faults = tuple(str(fault) for fault in read.faults)
                yield SuiteRead(suite.title, len(read.records), read.questions, read.left_out, faults)
            check_metrics([name for read in self.suites for record in read.records for name in record.asking.metrics])
            fingerprint = self._reader(None).fingerprint
            jobs = list(make_jobs(self.suites, self.plan, self.methods, fingerprint, self._warm_start_digests))
            yield from self._do_all(jobs)
            self._write_files(jobs, time.monotonic() - begun)

    def offsets(self, text: str) -> list[tuple[int, int]]:
        """The characters [start, end) of each token of `text`, for the model that is asked."""
        return self._remote.offsets(text) if self._remote is not None else ModelReader(self._model).offsets(text)

    @property
    def quantization(self) -> str | None:
        """nf4, int8 or the method's own name, where the model's files are quantised; None for one as it is."""
        return self.base.identity.quantization if self.base is not None else None

    @property
    def held_as(self) -> str:
        """How the weights of the model are held: its quantization, else their number type, such as bfloat16."""
        return self.quantization or (self.base.identity.dtype if self.base is not None else "at an endpoint")

    @property
    def _model(self) -> BaseModel:
        assert self.base is not None  # one of both is given
        return self.base

    def summary(self) -> dict[str, Any]:
        """Means of the main metrics by suite and method, errors and faults counted; for the end of a run.

        `abstention` has a line for each method that was asked what the document does not answer: how many such
        questions, the F1 of refusing them, and the share of the answerable questions that were refused, 0 to 1 (None
        where there were none).
        """
        groups: dict[tuple[str, str, str], list[dict[str, Any]]] = defaultdict(list)
        for row in self._rows.values():
            groups[row["suite"], row["method"], row["main"]].append(row)
        means = [
            {
                "suite": suite,
                "method": method,
                "metric": metric,
                "mean": fmean(row["scores"][metric] for row in rows),
                "questions": len(rows),
                "errors": sum(bool(row["error"]) for row in rows),
            }
            for (suite, method, metric), rows in groups.items()
        ]
        by_method: dict[tuple[str, str], list[dict[str, Any]]] = defaultdict(list)
        for row in self._rows.values():
            by_method[row["suite"], row["method"]].append(row)
        abstention = [
            {
                "suite": suite,
                "method": method,
                "unanswerable": scores.unanswerable,
                "f1": scores.abstention_f1,
                "false_refusals": scores.refused_share,
            }
            for (suite, method), rows in by_method.items()
            if (scores := measure_abstention(rows)) is not None
        ]
        faults = sum(len(suite.faults) for suite in self.suites)
        return {"means": means, "abstention": abstention, "faults": faults}

    @contextmanager
    def _locked(self) -> Iterator[None]:
        lock = filelock.FileLock(self.out / "cache" / "lock")
        try:
            lock.acquire(timeout=0)
        except filelock.Timeout:
            raise DataError(
                f"another evaluation is writing to {self.out}; wait until it is done, or choose another --out"
            ) from None
        try:
            yield
        finally:
            lock.release()

    def _open_files(self) -> None:
        results, costs, harms = (read_rows(self.out / name) for name in (RESULTS_FILE, COSTS_FILE, HARMS_FILE))
        self._rows: dict[_Identity, dict[str, Any]] = {
            (row["suite"], row["document"], row["method"], row["question_id"]): row for row in results
        }
        self._costs: dict[_Identity, dict[str, Any]] = {
            (row["suite"], row["document"], row["method"]): row for row in costs
        }
        self._harms: dict[_Identity, dict[str, Any]] = {
            (row["suite"], row["document"], row["memory"]): row for row in harms
        }
        self._cache = ReplyCache(self.out / "cache")
        if self.base is not None:
            self._store = MemoryStore(self.out / "cache" / "memories", self.base, self._stop)

    def _reader(self, memory: StoredMemory | None, start: WarmStart | None = None) -> CachedReader:
        if self._remote is not None:
            return CachedReader(self._remote, self._cache)
        assert self.base is not None  # one of both is given
        return CachedReader(
            ModelReader(self.base, memory, start=start, prompt_tokens=self.plan.window_tokens), self._cache
        )

    def _tuned_reader(self, recipe: Recipe) -> WarmStart | None:
        if self.base is None:
            return None
        check_local(recipe)
        return find_reader(self.base, recipe.adapter)

    def _warm_start_digests(self, recipe: Recipe) -> list[str | None]:
        """Of the warm start that memories of the recipe begin at, and of what reads for them."""
        if self.base is None:
            return [None, None]
        found = [find_warm_start(self.base, recipe.adapter), self._tuned_reader(recipe)]
        return [start.digest if start is not None else None for start in found]

    def _do_all(self, jobs: Sequence[MethodRun]) -> Iterator[EvaluationEvent]:
        begun, fresh = time.monotonic(), 0
        for number, job in enumerate(jobs, 1):
            known = self._done_before(job)
            if known is None:
                fresh += 1
                rows = yield from self._do(job)
            else:
                rows = known
            self._ask_judges(job, rows)
            yield Answered(
                suite=job.suite.plan.title,
                document=job.record.label,
                method=job.method.name,
                metric=rows[0]["main"],
                score=fmean(row["scores"][row["main"]] for row in rows),
                questions=len(rows),
                errors=sum(bool(row["error"]) for row in rows),
                reused=known is not None,
                done=number,
                total=len(jobs),
                eta_s=(len(jobs) - number) * (time.monotonic() - begun) / max(fresh, 1),
            )

    def _done_before(self, job: MethodRun) -> list[dict[str, Any]] | None:
        """The lines of the job where all of them are there, without an error, or none could be done better."""
        rows = [self._rows.get((*job.identity, question.id)) for question in job.questions]
        known = [row for row in rows if row is not None and row["key"] == job.key and not row["error"]]
        cost = self._costs.get(job.identity)
        whole = len(known) == len(rows) and cost is not None and cost["key"] == job.key
        return known if whole else None

    def _do(self, job: MethodRun) -> Generator[Absorbing | AskingProgress, None, list[dict[str, Any]]]:
        memory: StoredMemory | None = None
        start: WarmStart | None = None
        questions = job.questions
        lookup = Lookup(job.record.document)
        try:
            if job.method.memory == "start":
                assert job.recipe is not None  # jobs say at whose warm start such a method reads
                start = self._tuned_reader(job.recipe)
                if start is None:
                    raise UsageError(
                        f"expected a recipe whose memories begin at a warm start, got {job.recipe.name!r} on this "
                        "model; make one with `lift warm-start`, and set adapter.warm_start to its directory"
                    )
            elif job.recipe is not None:
                document, budget_s = job.other or job.record.document, job.suite.plan.budget_s
                memory = yield from self._store.memory(
                    document, job.recipe, budget_s, job.suite.plan.title, job.record.label
                )
            passages, replies = yield from self._answers(job, self._reader(memory, start), lookup)
            if memory is not None and job.other is None:
                self._measure_harms(job, memory)
        except InterruptedAbsorption:
            raise
        except LiftError as error:
            passages = [ShownPassage(None)] * len(questions)
            replies = [Reply("", "", 0, 0, 0.0, error=str(error))] * len(questions)
        rows = [
            result_line(job, question, passage, reply, memory, lookup.words)
            for question, passage, reply in zip(questions, passages, replies, strict=True)
        ]
        for row in rows:
            self._rows[(*job.identity, row["question_id"])] = row
            append_row(self.out / RESULTS_FILE, row)
        config = self.base.model.config.get_text_config() if self.base is not None else None
        cost = cost_line(job, memory, replies, len(self._reader(None).offsets(job.record.document.text)), config)
        self._costs[job.identity] = cost
        append_row(self.out / COSTS_FILE, cost)
        return rows

    def _answers(
        self, job: MethodRun, reader: CachedReader, lookup: Lookup
    ) -> Generator[AskingProgress, None, tuple[list[ShownPassage], list[Reply]]]:
        """The first questions alone, so that their time is what a person waits; the others in batches."""
        questions, asking = job.questions, job.record.asking
        asked = AskedQuestion(job.record, reader, lookup, self.plan.retrieved_sentences)
        passages = [job.method.choose(question, asked) for question in questions]
        method = job.method
        read = partial(reader.route, context=method.context) if method.routed else reader.read
        replies = [Reply("", "", 0, 0, 0.0, error=passage.refused or None) for passage in passages]
        possible = [row for row, passage in enumerate(passages) if not passage.refused]
        timed = self.plan.timed_questions
        alone = [([row], True) for row in possible[:timed]]
        rest = possible[timed:]
        batches = [(rest[first : first + _BATCH], False) for first in range(0, len(rest), _BATCH)]
        begun, done = time.monotonic(), 0
        for rows, one_by_one in [*alone, *batches]:
            if self._stop.is_set():
                raise InterruptedAbsorption("stopped; the same command goes on from here")
            eta_s = (time.monotonic() - begun) / done * (len(possible) - done) if done else None
            yield AskingProgress(job.suite.plan.title, job.record.label, method.name, done, len(possible), eta_s)
            texts, contexts = [questions[row].text for row in rows], [passages[row].text for row in rows]
            given = read(QuestionBatch(texts, contexts, asking.form, asking.max_new_tokens, one_by_one))
            for row, reply in zip(rows, given, strict=True):
                replies[row] = reply
            done += len(rows)
        return passages, replies

    def _measure_harms(self, job: MethodRun, memory: StoredMemory) -> None:
        identity = (job.suite.plan.title, job.record.id, memory.name)
        if identity in self._harms or self.base is None:
            return
        title = job.record.label
        if title not in self._abilities:
            self._abilities[title] = measure_ability(ModelReader(self.base), self._reader(None), job.record)
        after = measure_ability(ModelReader(self.base, memory), self._reader(memory), job.record)
        row = {
            "suite": job.suite.plan.title,
            "document": job.record.id,
            "memory": memory.name,
            "method": job.method.name,
            "recipe": memory.manifest.recipe_name,
            **harm_row(self._abilities[title], after),
        }
        self._harms[identity] = row
        append_row(self.out / HARMS_FILE, row)

    def _ask_judges(self, job: MethodRun, rows: Sequence[dict[str, Any]]) -> None:
        self._ask_judge(job, rows)
        if self._loogle_judge is None or not job.record.asking.judged:
            return
        asked = [row for row in rows if row.get("loogle_judge") in (None, "undecided") and not row["error"]]
        items = [(row["question"], row["gold"], row["answer"]) for row in asked]
        for row, verdict in zip(asked, self._loogle_judge.grade_many(items), strict=True):
            row["loogle_judge"] = verdict.verdict
            row["loogle_judge_error"] = verdict.error

    def _ask_judge(self, job: MethodRun, rows: Sequence[dict[str, Any]]) -> None:
        if self._judge is None or not job.record.asking.judged:
            return
        waiting = [row for row in rows if (row["judge"] is None or row.get("judge_error")) and not row["error"]]
        verdicts = self._judge.grade_many([(row["question"], row["gold"], row["answer"]) for row in waiting])
        for row, verdict in zip(waiting, verdicts, strict=True):
            row["judge"] = verdict.verdict
            row["judge_error"] = verdict.error

    def _write_files(self, jobs: Sequence[MethodRun], seconds: float) -> None:
        """Lines in the order of the plan, one for each identity; those of other plans in the same directory behind."""
        wanted = [(*job.identity, question.id) for job in jobs for question in job.questions]
        write_rows(self.out / RESULTS_FILE, [self._rows[each] for each in dict.fromkeys([*wanted, *self._rows])])
        costs = dict.fromkeys([*(job.identity for job in jobs), *self._costs])
        write_rows(self.out / COSTS_FILE, [self._costs[each] for each in costs])
        write_rows(self.out / HARMS_FILE, self._harms.values())
        reader = self._reader(None)
        described = describe_run(
            self.plan,
            self.methods,
            [describe_suite(suite) for suite in self.suites],
            command=self.command,
            model=reader.id,
            fingerprint=reader.fingerprint.strip("/"),
            notes=reader.notes,
            seconds=seconds,
            before=read_value(self.out / RUN_FILE) or {},
        )
        if self._judge is not None:
            described["judge"] = self._describe_judge(self._judge)
        write_value(self.out / RUN_FILE, described)
        write_value(self.out / PLAN_FILE, located(self.plan).model_dump(mode="json", exclude_unset=True))

    def _describe_judge(self, judge: Judge) -> dict[str, Any]:
        judged = [row for row in self._rows.values() if row["judge"] is not None]
        agreement = measure_agreement(judge, self._judge_labels) if self._judge_labels is not None else None
        return {
            "model": judge.model,
            "agreement": agreement,
            "undecided": sum(row["judge"] == "undecided" for row in judged),
            "errors": sum(bool(row.get("judge_error")) for row in judged),
        }
