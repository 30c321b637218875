"""What `lift bench` measures with: the arithmetic by hand, the same examples on both sides, and scripted clocks."""

from __future__ import annotations

import itertools
import json
import math
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import nullcontext
from dataclasses import asdict
from pathlib import Path
from types import SimpleNamespace
from typing import Any, get_args

import pytest
import torch
from conftest import tiny_llama
from hypothesis import given
from hypothesis import strategies as st

from lift.absorbing.preparation import prepare_document
from lift.absorbing.task_writing import TaskWriter
from lift.adapters.adapter import attached
from lift.adapters.attach import create_adapter
from lift.adapters.row_assignment import rows
from lift.bench import ask_bench as ask
from lift.bench import in_flight_bench as in_flight
from lift.bench.absorb_bench import BEST, LIFT, TRAINER, AbsorbBench, Grid, bench_absorb, prepare_absorb
from lift.bench.arithmetic import Matrices, Spread, first_reaching, log_log_slope, speedup, training_flops
from lift.bench.ask_bench import AskPlan, bench_ask
from lift.bench.bench_worker import main, perform
from lift.bench.fixed_batches import as_rows, fixed_batch_sampler
from lift.bench.growth_bench import TimedBatchSampler, bench_growth
from lift.bench.in_flight_bench import bench_in_flight
from lift.bench.library_bench import bench_library
from lift.bench.machine import PeakMemory, matmul_flops_per_s, matrices_of
from lift.bench.processes import in_own_process, kept_in
from lift.bench.race import Goal, Race
from lift.bench.side import SideRun, run_side
from lift.bench.texts import text_of_length
from lift.bench.trainer_side import Layout, TrainerOptions, collator, lora_config, train_with_trainer
from lift.documents.document import Document
from lift.errors import BenchError, DocumentError, UsageError
from lift.inference.generate import generate
from lift.models.base_model import BaseModel
from lift.packing.prompts import IGNORED, SYSTEM
from lift.packing.trie import pack
from lift.recipes.recipe import Recipe, load_recipe
from lift.tasks.task import Task

TEXT = "Bram Holt sells the tickets. The shop opens at nine. Mira Lund repairs the clocks in the tower."
DOCUMENT = Document("Holt", TEXT, "holt.txt")
CPU = torch.device("cpu")
ONE_PROBE = Goal(1.0, 1e6, 1e-6)  # a single step, then a probe


def recipe(*overrides: str) -> Recipe:
    quick = ("training.epochs=1", "adapter.rank=2", "tasks.per_sentence=4", *overrides)
    return load_recipe("fast", quick)


def tasks_of(base: BaseModel, settings: Recipe) -> list[Task]:
    made = prepare_document(DOCUMENT, base, settings)
    return [task for piece in TaskWriter(made, base, settings).stream() for task in piece.tasks]


# the arithmetic


def test_operations_by_hand() -> None:
    # a body of 100, a head of 50, an adapter of 10: 400 + 60 a token, 200 more where there are logits
    assert training_flops(Matrices(100, 50, 10), tokens=3, head_tokens=1) == 3 * 460 + 200
    above = Matrices(100, 50, 10, below=70)
    assert training_flops(above, tokens=3, head_tokens=1) == 3 * 600 + 200
    assert training_flops(above, tokens=3, head_tokens=1, below_tokens=2) == 3 * 460 + 2 * 140 + 200


@given(st.integers(1, 10**9), st.integers(0, 10**9), st.integers(0, 10**7), st.integers(1, 10**5))
def test_a_frozen_body_saves_a_third_of_full_training(body: int, head: int, adapter: int, tokens: int) -> None:
    frozen = training_flops(Matrices(body, head, adapter), tokens, tokens)
    assert frozen == 6 * tokens * (body + head + adapter) - 2 * tokens * (body + head)


def test_matrices_of_the_tiny_model_by_hand() -> None:
    # a layer: q and o 16x16, k and v 16x8, gate, up and down 16x32; two layers; a head of 259x16
    layer = 2 * 16 * 16 + 2 * 16 * 8 + 3 * 16 * 32
    assert matrices_of(tiny_llama(), 7) == Matrices(2 * layer, 259 * 16, 7)
    assert matrices_of(tiny_llama(), 7, first_layer=1) == Matrices(layer, 259 * 16, 7, layer)


def test_the_first_probe_at_or_above_counts_and_nothing_in_between() -> None:
    curve = [(5.0, 0.1), (10.0, 0.49), (15.0, 0.5), (20.0, 0.3), (25.0, 0.9)]
    assert first_reaching(curve, 0.5) == 15.0
    assert first_reaching(curve, 0.51) == 25.0
    assert first_reaching(curve, 0.05) == 5.0
    assert first_reaching(curve, 0.95) is None
    assert first_reaching([], 0.1) is None


@given(st.floats(-2, 3), st.floats(0.1, 100), st.lists(st.integers(1, 10**5), min_size=2, max_size=6, unique=True))
def test_the_slope_of_a_power_is_its_exponent(power: float, factor: float, sizes: list[int]) -> None:
    found = log_log_slope(sizes, [factor * size**power for size in sizes])
    assert found is not None
    assert math.isclose(found, power, abs_tol=1e-6)


def test_no_slope_of_one_size_and_none_of_nothing() -> None:
    assert log_log_slope([7, 7], [1.0, 2.0]) is None
    with pytest.raises(ValueError, match="above zero"):
        log_log_slope([1, 0], [1.0, 2.0])


def test_a_speedup_is_a_ratio_of_medians_and_a_lower_bound_where_the_other_was_stopped() -> None:
    both = speedup([10.0, 12.0, 11.0], [40.0, 44.0, 48.0], [40.0, 44.0, 48.0])
    assert both is not None
    assert (both.times, both.at_least) == (4.0, False)
    stopped = speedup([10.0], [None], [600.0])
    assert stopped is not None
    assert (stopped.times, stopped.at_least) == (60.0, True)
    assert speedup([10.0, None], [20.0, 20.0], [20.0, 20.0]) is None


def test_a_spread_needs_a_value() -> None:
    assert Spread.of([3.0, 1.0, 8.0]) == Spread(3.0, 1.0, 8.0)
    with pytest.raises(ValueError, match="at least one"):
        Spread.of([])


# the clock


class ScriptedPeak:
    """One more byte each time that it is read, from nothing after each restart."""

    def __init__(self) -> None:
        self.held = 0
        self.restarts = 0

    def restart(self) -> None:
        self.held = 0
        self.restarts += 1

    def bytes(self) -> int:
        self.held += 1
        return self.held


def scripted_race(goal: Goal, recalls: list[float], step_s: float = 2.0, probe_s: float = 100.0) -> tuple[Race, int]:
    """Steps of `step_s` until the race is over; probes take `probe_s` of the clock and give `recalls` in turn."""
    clock = itertools.count()
    seconds = {"now": float(next(clock))}
    answers: Iterator[float] = iter(recalls)

    def probe() -> float:
        seconds["now"] += probe_s
        return next(answers)

    race = Race(goal, probe, lambda: seconds["now"], ScriptedPeak())
    race.start()
    steps = 0
    while steps < 50:
        seconds["now"] += step_s
        steps += 1
        if race.step_done():
            break
    race.finish()
    return race, steps


def test_the_time_of_probing_is_not_counted_and_the_first_probe_that_is_enough_ends_it() -> None:
    race, steps = scripted_race(Goal(0.5, every_s=5.0, limit_s=1000.0), [0.1, 0.4, 0.6])
    assert race.curve == [(6.0, 0.1), (12.0, 0.4), (18.0, 0.6)]
    assert (race.reached_s, race.trained_s, steps) == (18.0, 18.0, 9)


def test_a_side_that_is_stopped_by_the_limit_is_asked_once_more() -> None:
    race, _ = scripted_race(Goal(0.5, every_s=100.0, limit_s=7.0), [0.2])
    assert race.curve == [(8.0, 0.2)]
    assert race.reached_s is None


def test_a_training_that_ends_by_itself_is_asked_at_its_end() -> None:
    race, steps = scripted_race(Goal(0.5, every_s=1e6, limit_s=1e6), [0.7])
    assert steps == 50
    assert (race.curve, race.reached_s) == ([(100.0, 0.7)], 100.0)


def test_a_trial_of_the_speed_asks_nothing() -> None:
    race, steps = scripted_race(Goal(None, every_s=1.0, limit_s=7.0), [])
    assert (race.curve, race.reached_s, steps) == ([], None, 4)


def test_memory_is_that_of_training_between_the_probes() -> None:
    race, _ = scripted_race(Goal(0.5, every_s=5.0, limit_s=1000.0), [0.1, 0.9])
    assert race.peak_bytes == 3  # three steps between two restarts


def test_the_mark_of_memory_sees_what_is_freed_and_forgets_it() -> None:
    peak = PeakMemory(CPU)
    before = peak.bytes()
    block = torch.ones(25_000_000)  # 100 MB
    held = peak.bytes()
    del block
    assert held - before > 80e6
    # the kernel counts pages in batches: a few MB more or less
    assert peak.bytes() > held - 10e6
    peak.restart()
    assert peak.bytes() < held - 80e6


# the same examples


def test_both_sides_train_on_the_same_examples(tiny_model: BaseModel) -> None:
    settings = recipe("training.epochs=2")
    sampler = fixed_batch_sampler(
        prepare_document(DOCUMENT, tiny_model, settings), tasks_of(tiny_model, settings), tiny_model, settings
    )
    rows = sorted((row["input_ids"], row["labels"]) for row in as_rows(sampler.examples()))
    for epoch in range(2):
        ours = [example for update in sampler.optimizer_steps(epoch) for batch in update.batches for example in batch]
        assert sorted((list(example.ids), list(example.labels)) for example in ours) == rows
    assert sampler.labelled == 2 * sum(label != IGNORED for _, labels in rows for label in labels)
    assert any(example.reads_evidence for example in sampler.examples())
    assert any(not example.reads_evidence for example in sampler.examples())


def test_useful_tokens_by_hand(tiny_model: BaseModel) -> None:
    settings = recipe()
    task = Task("Who?", "Bram", (0,), "test")
    sampler = fixed_batch_sampler(prepare_document(DOCUMENT, tiny_model, settings), [task], tiny_model, settings)
    closed_book = next(example for example in sampler.examples() if not example.reads_evidence)
    # bytes: <|im_start|>system\n...<|im_end|>\n<|im_start|>user\nWho?<|im_end|>\n<|im_start|>assistant\n,
    # then Bram<|im_end|>
    assert len(closed_book.ids) == 1 + 7 + len(SYSTEM) + 1 + 1 + 1 + 5 + 4 + 1 + 1 + 1 + 10 + 4 + 1
    assert closed_book.labelled_tokens == 4 + 1


@pytest.mark.parametrize("layout", get_args(Layout))
def test_every_layout_of_trainer_has_the_loss_of_the_examples(layout: Any, tiny_model: BaseModel) -> None:
    settings = recipe()
    sampler = fixed_batch_sampler(
        prepare_document(DOCUMENT, tiny_model, settings), tasks_of(tiny_model, settings), tiny_model, settings
    )
    examples = sampler.examples()[:3]
    assert len({len(example.ids) for example in examples}) > 1
    model = tiny_model.model
    model.config.use_cache = False  # as Trainer sets it; with a cache packed examples would see each other
    with torch.no_grad():
        loss = model(**collator(tiny_model.tokenizer, layout)(as_rows(examples))).loss
        alone = [model(**collator(tiny_model.tokenizer, "padded")(as_rows([each]))).loss for each in examples]
    weights = [example.labelled_tokens for example in examples]
    expected = sum(each * weight for each, weight in zip(alone, weights, strict=True)) / sum(weights)
    assert torch.allclose(loss, expected, atol=1e-5)


def test_both_sides_have_the_same_adapter_shape(tiny_model: BaseModel) -> None:
    from peft import get_peft_model

    settings = recipe()
    ours = create_adapter(tiny_model.model, settings.adapter, 0)
    shapes = sorted(tuple(parameter.shape) for parameter in ours.parameters())
    ours.detach()
    config = lora_config(tiny_model.model, settings.adapter)
    assert (config.r, config.lora_alpha, config.lora_dropout) == (settings.adapter.rank, settings.adapter.alpha, 0)
    theirs = get_peft_model(tiny_llama(), config)
    assert sorted(tuple(each.shape) for each in theirs.parameters() if each.requires_grad) == shapes
    assert not attached(tiny_model.model)
    with pytest.raises(UsageError, match=r"adapter\.kind=lora"):
        lora_config(tiny_model.model, recipe("adapter.kind=dora").adapter)


# one side, run in earnest


def run_once(base: BaseModel, options: TrainerOptions | None) -> tuple[SideRun, Recipe, list[Task]]:
    settings = recipe()
    tasks = tasks_of(base, settings)
    goal = Goal(1.0, 1e6, 1e6)  # a whole epoch, and a probe at its end
    return run_side(base, DOCUMENT, tasks, settings, seed=0, probes=2, goal=goal, options=options), settings, tasks


@pytest.mark.parametrize("layout", [None, *get_args(Layout)])
def test_a_side_counts_the_tokens_of_an_epoch(layout: Any, tiny_model: BaseModel) -> None:
    options = TrainerOptions(layout, 4, 1e-3) if layout else None
    side, settings, tasks = run_once(tiny_model, options)
    fresh = BaseModel(tiny_llama(), tiny_model.tokenizer, "tiny", "0" * 64)
    sampler = fixed_batch_sampler(prepare_document(DOCUMENT, fresh, settings), tasks, fresh, settings)
    examples = sampler.examples()
    real, labelled = (
        sum(len(example.ids) for example in examples),
        sum(example.labelled_tokens for example in examples),
    )
    assert round(side.real_tokens_per_s * side.trained_s) == real
    assert round(side.labelled_tokens_per_s * side.trained_s) == labelled
    computed = round(side.computed_tokens_per_s * side.trained_s)
    if layout is None:
        optimizer_steps = [batch for update in sampler.optimizer_steps(0) for batch in update.batches]
        assert computed == sum(pack(batch).tokens for batch in optimizer_steps)
        assert computed < real  # shared prefixes are computed once
    elif layout == "packed":
        assert computed == real
    else:
        assert computed > real  # padding
    adapter = create_adapter(fresh.model, settings.adapter, 0)
    parameters = sum(parameter.numel() for parameter in adapter.parameters())
    adapter.detach()
    assert adapter.first_layer == 1
    needed = training_flops(matrices_of(fresh.model, parameters, 1), real, labelled)
    assert math.isclose(side.needed_flops_per_token, needed / real)
    assert math.isclose(side.needed_share, needed / side.trained_s / side.matmul_flops_per_s)
    assert side.done_share > 0
    assert len(side.curve) == 1
    assert side.peak_bytes > 0


def test_trainer_trains_the_adapter(tiny_model: BaseModel) -> None:
    before = {name: weight.clone() for name, weight in tiny_model.model.state_dict().items()}
    run_once(tiny_model, TrainerOptions("by-length", 4, 1e-2))
    after = tiny_model.model.state_dict()
    changed = [name for name, weight in after.items() if "lora_B" in name and weight.abs().sum() > 0]
    assert changed
    assert all(
        torch.equal(after.get(name, after.get(name.replace(".weight", ".base_layer.weight"))), weight)
        for name, weight in before.items()
    )


def test_packed_examples_are_trained_as_padded_ones_are(tiny_model: BaseModel) -> None:
    settings, trained = recipe(), []
    tasks = tasks_of(tiny_model, settings)
    for layout in get_args(Layout):
        base = BaseModel(tiny_llama(), tiny_model.tokenizer, "tiny", "0" * 64)
        sampler = fixed_batch_sampler(prepare_document(DOCUMENT, base, settings), tasks, base, settings)
        race = Race(Goal(None, 1e6, 1e6), lambda: 0.0, lambda: 0.0, ScriptedPeak())
        # one step on all examples
        train_with_trainer(base, as_rows(sampler.examples()), settings, TrainerOptions(layout, 999, 1e-2), race)
        assert base.model.config.use_cache is False
        state = base.model.state_dict()
        trained.append(torch.cat([state[name].flatten() for name in sorted(state) if "lora_B" in name]))
    for other in trained[1:]:
        # the first step of Adam goes by the sign of the gradient, which rounding may turn where it is next to nothing
        assert (torch.isclose(other, trained[0], atol=1e-5)).float().mean() > 0.99


def test_a_bound_is_above_zero() -> None:
    assert matmul_flops_per_s(tiny_llama()) > 0


# the comparison, with scripted runs


def scripted_run(reached_s: float | None, trained_s: float, speed: float = 100.0, peak: int = 1000) -> dict[str, Any]:
    recall = 0.6 if reached_s is not None else 0.3
    side = SideRun(reached_s, trained_s, [(trained_s, recall)], speed, speed, speed / 4, 1e9, 1e6, 0.1, 0.2, peak)
    return side.as_dict()


class Script:
    """Runs by what is asked: Lift needs 10 s, Trainer 2e-2 / rate (at most the limit), packed is the quicker layout."""

    def __init__(self, slow: bool = False) -> None:
        self.jobs: list[Mapping[str, Any]] = []
        self.slow = slow

    def __call__(self, job: Mapping[str, Any]) -> dict[str, Any]:
        self.jobs.append(job)
        options = job["options"]
        if options is None:
            return scripted_run(10.0 + job["seed"], 10.0 + job["seed"])
        speed = 80.0 if options["layout"] == "packed" else 50.0
        if job["recall"] is None:
            return scripted_run(None, job["limit_s"], speed)
        needed = 2e-2 / options["rate"] * (0.5 if options["layout"] != "padded" else 1.0) * 16 / options["batch"]
        if self.slow or needed > job["limit_s"]:
            return scripted_run(None, job["limit_s"], speed, 3000)
        return scripted_run(needed, needed, speed, 3000)


BENCH = AbsorbBench(
    job={"kind": "absorb", "model": "m", "recipe": {}, "document": {}, "tasks": [], "probes": 3},
    facts={"examples": 3, "title": "a text"},
    machine={"device": "cpu"},
    goal=Goal(0.5, 5.0, 100.0),
)
GRID = Grid(rates=(2e-4, 1e-3, 5e-4), batches=(16, 8), seeds=3, trial_s=2.0)


def test_the_other_side_is_tuned_and_its_best_is_compared() -> None:
    script, said = Script(), list[str]()
    result = bench_absorb([BENCH], GRID, say=said.append, run=script)
    assert json.loads(json.dumps(result, allow_nan=False)) == result
    rows = {row["side"]: row for row in result["rows"]}
    assert list(rows) == [LIFT, TRAINER, BEST]
    assert rows[TRAINER]["options"] == {"layout": "padded", "batch": 16, "rate": 1e-3}
    assert rows[BEST]["options"] == {"layout": "packed", "batch": 16, "rate": 1e-3}
    assert [row["reached"] for row in result["rows"]] == [3, 3, 3]
    assert rows[LIFT]["reached_s"] == {"median": 11.0, "least": 10.0, "most": 12.0}
    (text,) = result["texts"]
    assert text["speedup"][TRAINER]["seconds"] == {"times": 20 / 11, "at_least": False}
    assert text["speedup"][BEST]["seconds"] == {"times": 10 / 11, "at_least": False}
    assert result["speedup"][TRAINER]["seconds"]["times"] == 20 / 11
    assert result["speedup"][BEST]["real_tokens_per_s"] == 100 / 80
    assert result["speedup"][BEST]["peak_bytes"] == 3
    # the grid on the first seed alone, and every side on every seed
    asked = [(job["seed"], job["options"] is None) for job in script.jobs if job["recall"] is not None]
    assert asked.count((0, False)) == 3 + 6
    assert [asked.count((seed, True)) for seed in range(3)] == [1, 1, 1]
    assert [asked.count((seed, False)) for seed in (1, 2)] == [2, 2]
    assert len(said) == len(script.jobs)


def test_trainer_is_tuned_on_the_first_text_alone() -> None:
    script = Script()
    result = bench_absorb([BENCH, BENCH, BENCH], GRID, say=lambda _: None, run=script)
    assert len(result["texts"]) == 3
    assert len(result["rows"]) == 9
    layouts, tuning, seeds = 2, 3 + 6, 3 * 3 * 3
    assert len(script.jobs) == layouts + tuning + seeds - 2  # the best of each tuning is its first seed
    assert result["speedup"][BEST]["seconds"]["least"] == 10 / 11


def test_a_benchmark_that_was_interrupted_goes_on(tmp_path: Path) -> None:
    script = Script()
    first = bench_absorb([BENCH], GRID, say=lambda _: None, run=kept_in(tmp_path / "kept", script))
    done = len(script.jobs)
    again = bench_absorb([BENCH], GRID, say=lambda _: None, run=kept_in(tmp_path / "kept", script))
    assert again == first
    assert len(script.jobs) == done
    next((tmp_path / "kept").iterdir()).unlink()
    bench_absorb([BENCH], GRID, say=lambda _: None, run=kept_in(tmp_path / "kept", script))
    assert len(script.jobs) == done + 1


def test_tuning_stops_a_candidate_at_the_best_time_so_far_and_seeds_get_the_whole_limit() -> None:
    script = Script()
    bench_absorb([BENCH], GRID, say=lambda _: None, run=script)
    padded = [job for job in script.jobs if job["options"] and job["options"]["layout"] == "padded"]
    # 2e-4 would need 100 s, which is the limit; 1e-3 needs 20 s, and 5e-4 is stopped there
    assert [job["limit_s"] for job in padded] == [100.0, 100.0, 20.0, 100.0, 100.0]


def test_a_side_that_never_gets_there_gives_a_lower_bound() -> None:
    result = bench_absorb([BENCH], GRID, say=lambda _: None, run=Script(slow=True))
    ratio = 100 / 11
    assert result["speedup"][TRAINER]["seconds"] == {"times": ratio, "least": ratio, "most": ratio, "at_least": True}
    row = result["rows"][1]
    assert (row["reached"], row["reached_s"], row["trained_s"]["most"]) == (0, None, 100.0)


def test_what_cannot_be_compared_is_refused(tiny_model: BaseModel) -> None:
    with pytest.raises(UsageError, match="distillation"):
        prepare_absorb(tiny_model, DOCUMENT, recipe("objective.distillation=1"), ONE_PROBE, 3)
    with pytest.raises(DocumentError, match="hold out"):
        prepare_absorb(tiny_model, DOCUMENT, recipe("tasks.held_out_per_sentence=0"), ONE_PROBE, 3)


# processes


def absorb_job(base: BaseModel, directory: Path) -> dict[str, Any]:
    bench = prepare_absorb(base, DOCUMENT, recipe(), ONE_PROBE, 1)
    return {**bench.job, "model": str(directory), **asdict(ONE_PROBE), "seed": 0, "options": None}


@pytest.mark.slow
def test_a_job_in_its_own_process_gives_what_it_gives_here(tiny_model: BaseModel, tiny_directory: Path) -> None:
    job = absorb_job(tiny_model, tiny_directory)
    there, here = in_own_process(job), perform(job)
    assert there.keys() == here.keys()
    assert there["needed_flops_per_token"] == here["needed_flops_per_token"]
    assert SideRun(**there).recall == SideRun(**here).recall


def test_what_a_process_refuses_is_said_here(
    tiny_model: BaseModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def worker(command: list[str], **_options: Any) -> Any:
        return SimpleNamespace(returncode=main(*command[-2:]))

    monkeypatch.setattr(subprocess, "run", worker)
    with pytest.raises(BenchError, match=r"expected a transformers directory"):
        in_own_process(absorb_job(tiny_model, tmp_path / "nothing-here"))


def test_a_process_that_is_ended_from_outside_is_said_here(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: SimpleNamespace(returncode=-9))
    with pytest.raises(BenchError, match=r"'growth', got exit status -9"):
        in_own_process({"kind": "growth"})


def test_a_worker_writes_what_it_refuses(tmp_path: Path) -> None:
    order, outcome = tmp_path / "job.json", tmp_path / "result.json"
    order.write_text('{"kind": "nonsense"}', "utf-8")
    assert main(str(order), str(outcome)) == 1
    assert "got 'nonsense'" in json.loads(outcome.read_text("utf-8"))["error"]


# asking and growing


@given(st.integers(1, 300))
def test_a_text_is_cut_or_repeated_to_a_length(tokens: int) -> None:
    def tokenizer(text: str, **_options: Any) -> dict[str, Any]:
        offsets = [(index, index + 1) for index in range(len(text))]
        return {"offset_mapping": offsets, "input_ids": offsets}

    made = text_of_length(tokenizer, TEXT, tokens)
    assert len(made) == tokens
    assert made == (TEXT + "\n\n" + TEXT + "\n\n" + TEXT + "\n\n" + TEXT)[:tokens]
    with pytest.raises(UsageError, match="empty"):
        text_of_length(tokenizer, "", tokens)


def test_asking_beside_reading(tiny_model: BaseModel) -> None:
    before = {name: weight.clone() for name, weight in tiny_model.model.state_dict().items()}
    plan = AskPlan(lengths=(300, 2000), answer_tokens=3, in_flight=(1, 2), repeats=1)
    result = bench_ask(tiny_model, TEXT, plan, memory=None, adapter=recipe().adapter, say=lambda _: None)
    assert json.loads(json.dumps(result, allow_nan=False)) == result
    rows = {(row["length"], row["context"]): row for row in result["rows"]}
    assert [fits for (_, context), row in rows.items() if context == "full" for fits in [row["fits"]]] == [True, False]
    prompts = {context: rows[300, context]["prompt_tokens"] for context in ("none", "full", "truncated")}
    # closed book the prompt has no text; what fits is not truncated
    assert prompts["full"] == prompts["truncated"] == prompts["none"] + 300 + 2
    assert rows[2000, "truncated"]["prompt_tokens"] <= 1024 - 3
    # 2 layers, 2 heads of 4, 2 bytes: 64 a token; an adapter of rank 2 in bfloat16
    adapter = create_adapter(tiny_model.model, recipe().adapter, 0)
    size = 2 * sum(parameter.numel() for parameter in adapter.parameters())
    adapter.detach()
    assert (rows[2000, "none"]["bytes"], rows[2000, "full"]["bytes"]) == (size, 64 * 2000)
    assert result["speedup"]["bytes"]["2000"] == 64 * 2000 / size
    assert result["speedup"]["first_token"]["full"].keys() == {"300"}
    # the last prompt that was read whole, in float32: twice the bytes a token
    assert rows[300, "kept"]["bytes"] == 2 * 64 * rows[300, "full"]["prompt_tokens"]
    assert (rows[2000, "kept"]["fits"], rows[2000, "kept"]["bytes"]) == (False, None)
    assert result["speedup"]["first_token"]["evidence"].keys() == {"300", "2000"}
    assert [each["questions"] for each in result["in_flight"]] == [1, 2]
    for each in result["in_flight"]:
        assert math.isclose(each["one_tokens_per_s"], 3 * each["questions_per_s"])
        assert math.isclose(each["ratio"], each["many_tokens_per_s"] / each["one_tokens_per_s"])  # measured once
        assert each["ratio_least"] == each["ratio"] == each["ratio_most"]
        assert each["attach_s"] > 0
    assert result["memory"] == "untrained"
    # the model is as it was
    after = tiny_model.model.state_dict()
    assert not attached(tiny_model.model)
    assert after.keys() == before.keys()
    assert all(torch.equal(after[name], before[name]) for name in before)


def test_a_text_that_is_kept_is_not_read_again(tiny_model: BaseModel) -> None:
    widths: list[int] = []
    handle = tiny_model.model.register_forward_hook(
        lambda _model, _args, options, _output: widths.append(options["input_ids"].shape[1]), with_kwargs=True
    )
    plan = AskPlan(lengths=(400,), answer_tokens=2, in_flight=(1,), repeats=2)
    result = bench_ask(tiny_model, TEXT, plan, memory=None, adapter=recipe().adapter, say=lambda _: None)
    handle.remove()
    rows = {row["context"]: row for row in result["rows"]}
    # read whole: twice for "full", and truncated, which fits (warming up, then twice); never for "kept"
    assert sum(width > 400 for width in widths) == 2 + 3
    assert rows["kept"]["prompt_tokens"] > 400


def test_only_what_is_asked_closed_book_has_the_memory(tiny_model: BaseModel, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[int, int, bool]] = []

    def watching(model: Any, prompts: list[list[int]], **options: Any) -> Any:
        asked.append((len(prompts), max(map(len, prompts)), bool(attached(model))))
        return generate(model, prompts, **options)

    monkeypatch.setattr(ask, "generate", watching)
    plan = AskPlan(lengths=(400,), answer_tokens=2, in_flight=(4,), repeats=1)
    bench_ask(tiny_model, TEXT, plan, memory=None, adapter=recipe().adapter, say=lambda _: None)
    assert {memory for count, length, memory in asked if count == 1 and length < 150} == {True}
    assert {memory for count, length, memory in asked if count == 1 and length > 150} == {False}
    assert {count for count, _, _ in asked} == {1}


def test_questions_at_once_go_to_one_memory_and_to_as_many_in_turn(
    tiny_model: BaseModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = recipe("adapter.targets=mlp").adapter
    adapter = create_adapter(tiny_model.model, settings, 0)
    config, state = adapter.stored()
    adapter.detach()
    loads, used = itertools.count(), []

    def load() -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
        next(loads)
        return config, state

    def watching(model: Any, prompts: list[list[int]], *, adapters: Any = None, **options: Any) -> Any:
        alone = [name for name, each in attached(model).items() if each.rows is None]
        with rows(model, adapters) if adapters else nullcontext():
            sharing = [name for name, each in attached(model).items() if each.rows]
        used.append((len(prompts), options["batch_size"], len(alone), len(set(sharing) - set(alone))))
        return generate(model, prompts, adapters=adapters, **options)

    monkeypatch.setattr(in_flight, "generate", watching)
    questions = [f"What is {number}?" for number in range(4)]
    found = bench_in_flight(tiny_model, load, questions, (1, 3), answer_tokens=2, repeats=2, say=lambda _: None)
    assert [each["questions"] for each in found] == [1, 3]
    assert used == [(1, 1, 1, 0), (1, 1, 0, 1)] * 2 + [(3, 3, 1, 0), (3, 3, 0, 3)] * 2
    assert next(loads) == 1 + 3
    assert attached(tiny_model.model) == {}


def test_growth_cuts_the_text_and_fits_the_slopes(tiny_model: BaseModel) -> None:
    jobs: list[Mapping[str, Any]] = []

    def run(job: Mapping[str, Any]) -> dict[str, Any]:
        jobs.append(job)
        tokens = len(job["document"]["text"])
        spent = {"prepare_s": tokens / 100, "train_s": tokens**2 / 100, "peak_bytes": 1000}
        return {"tokens": tokens, "sentences": 1, "tasks": 4, "trained_tokens": 8, **spent}

    result = bench_growth(tiny_model, DOCUMENT, recipe(), [400, 50], tokens_per_sentence=8, say=lambda _: None, run=run)
    assert [len(job["document"]["text"]) for job in jobs] == [50, 400]
    assert [row["length"] for row in result["rows"]] == [50, 400]
    assert math.isclose(result["slope"]["prepare_s"], 1.0)
    assert math.isclose(result["slope"]["train_s"], 2.0)
    assert math.isclose(result["slope"]["held_bytes"], 0.0, abs_tol=1e-9)
    assert result["peak_growth"] == 1.0
    assert {"machine", "rows", "speedup"} <= result.keys()


def test_a_curriculum_knows_how_many_epochs_were_trained(tiny_model: BaseModel) -> None:
    settings = recipe("training.batch_tokens=64", "training.epochs=3")
    made = prepare_document(DOCUMENT, tiny_model, settings)
    tasks = tasks_of(tiny_model, settings)
    sampler = TimedBatchSampler(tiny_model.tokenizer, 999, DOCUMENT, made.sentences, tasks, settings)
    examples = sum(len(group) for group in sampler.groups(1))
    seen = 0
    for update in sampler.optimizer_steps(1):
        assert math.isclose(sampler.reached, 1 + seen / examples)
        seen += sum(map(len, update.batches))
    assert sampler.reached == 2


def test_a_library_of_each_size_is_measured_and_left_to_nobody(tiny_model: BaseModel) -> None:
    rows = bench_library(tiny_model, recipe(), [4, 1], lambda _: None, repeats=2)
    assert [row["memories"] for row in rows] == [1, 4]
    assert all(value > 0 for row in rows for value in row.values())
    # the files of a copy are those of the first memory, but for its name and key
    assert 3.5 < rows[1]["directory_bytes"] / rows[0]["directory_bytes"] < 4.5
    assert not attached(tiny_model.model)


def test_growing_trains_the_same_for_each_sentence(tiny_model: BaseModel, tiny_directory: Path) -> None:
    settings = recipe("training.batch_tokens=64", "training.epochs=3")
    job = {
        "kind": "growth",
        "model": str(tiny_directory),
        "recipe": settings.model_dump(mode="json"),
        "document": {"title": "Holt", "text": TEXT},
        "tokens_per_sentence": 100,
        "train_s": 2.0,
    }
    absorbed = perform(job)
    assert 0 < absorbed["timed_epochs"] <= 3
    assert absorbed["timed_peak_bytes"] > 0
    assert absorbed["sentences"] == 3
    assert absorbed["tokens"] == len(TEXT)
    # the step that reaches the number is the last; a step here has at most an example of 200 tokens
    assert 300 <= absorbed["trained_tokens"] < 500
    assert absorbed["tasks"] == sum(not task.held_out for task in tasks_of(tiny_model, settings))
    assert absorbed["peak_bytes"] > 0
