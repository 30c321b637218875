import json
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import tiny_llama
from machines import Machine

from lift.adapters.adapter import Adapter
from lift.adapters.attach import create_adapter, restore_adapter
from lift.documents.document import Document
from lift.documents.sentences import Sentence
from lift.models.base_model import BaseModel
from lift.recipes.recipe import Recipe, load_recipe
from lift.tasks.task import Task
from lift.training.batch_sampler import BatchSampler
from lift.training.checkpoint import Checkpoint
from lift.training.learning_rate_schedule import learning_rate_multiplier
from lift.training.objective import Objective
from lift.training.pace import Pace
from lift.training.training_loop import StepRecord, train

TEXT = "Ada Quill founded the museum. It owns 42 lenses. The tower burned in 1907. Merrow lies in the north."
ANSWERS = ["Ada Quill", "42", "1907", "the north"]


def sentences() -> list[Sentence]:
    found, start = [], 0
    for index, text in enumerate(TEXT.split(". ")):
        found.append(Sentence(index, text, start, start + len(text), 0))
        start += len(text) + 2
    return found


def sampler(base: BaseModel, recipe: Recipe) -> BatchSampler:
    tasks = [
        Task(f"{word} {index}?", answer, (index,), "test", weight=1.0 + index, held_out=word == "Held")
        for index, answer in enumerate(ANSWERS)
        for word in ("What", "Which", "Held")
    ]
    return BatchSampler(
        base.tokenizer, base.window_tokens, Document("Merrow", TEXT, "test"), sentences(), tasks, recipe
    )


def recipe(*overrides: str) -> Recipe:
    return load_recipe("default", ["training.epochs=3", "adapter.rank=4", "training.batch_tokens=160", *overrides])


def start(base: BaseModel, adapter: Adapter, chosen: Recipe, **options: Any) -> Iterator[StepRecord]:
    objective = Objective(base.model, adapter, chosen.objective)
    return train(adapter, objective, sampler(base, chosen), chosen.training, **options)


def run(base: BaseModel, chosen: Recipe, **options: Any) -> tuple[list[StepRecord], dict[str, torch.Tensor]]:
    adapter = create_adapter(base.model, chosen.adapter, chosen.training.seed)
    steps = list(start(base, adapter, chosen, **options))
    state = adapter.trained_state()
    adapter.detach()
    return steps, state


def test_training_lowers_the_loss_and_the_same_seed_gives_the_same_steps(tiny_model: BaseModel) -> None:
    chosen = recipe("training.epochs=24", "training.learning_rate=0.0025")
    steps, _ = run(tiny_model, chosen)
    again, _ = run(tiny_model, chosen)
    other, _ = run(tiny_model, recipe("training.epochs=24", "training.learning_rate=0.0025", "training.seed=1"))
    assert [step.loss for step in steps] == pytest.approx([step.loss for step in again], abs=1e-5)
    assert [step.loss for step in steps] != pytest.approx([step.loss for step in other], abs=1e-5)
    assert sum(step.loss for step in steps[-4:]) < 0.8 * sum(step.loss for step in steps[:4])


@pytest.mark.parametrize("stored", [False, True])
@pytest.mark.parametrize("kind", ["lora", "dora", "pissa", "gated-memory"])
def test_the_ratio_of_rates_is_that_of_the_first_step_of_b(tiny_model: BaseModel, kind: str, stored: bool) -> None:
    one_step = ["training.schedule=constant", "training.max_tokens=1", "training.clip=1e9", f"adapter.kind={kind}"]
    # far below clipping and rounding, AdamW's first step is the rate itself, whatever the gradient
    changes = []
    for ratio in (1, 4):
        chosen = recipe(*one_step, f"training.lora_plus_ratio={ratio}")
        adapter = create_adapter(tiny_model.model, chosen.adapter, chosen.training.seed)
        if stored:
            kept = adapter.stored()
            adapter.detach()
            adapter = restore_adapter(tiny_model.model, *kept)
        before = adapter.trained_state()
        assert len(list(start(tiny_model, adapter, chosen))) == 1
        changes.append({key: value - before[key] for key, value in adapter.trained_state().items()})
        adapter.detach()
    once, often = changes
    assert any(value.abs().max() > 0 for value in once.values())
    for key, change in once.items():
        assert torch.allclose(often[key], change * (4 if "lora_B" in key else 1), atol=1e-6), key


def test_the_base_model_is_not_trained(tiny_model: BaseModel) -> None:
    before = {name: value.clone() for name, value in tiny_model.model.state_dict().items()}
    run(tiny_model, recipe())
    assert all(torch.equal(value, before[name]) for name, value in tiny_model.model.state_dict().items())


@pytest.mark.parametrize("stop_after", [1, 5])
def test_an_interrupted_training_ends_as_an_uninterrupted_one(
    tiny_model: BaseModel, tmp_path: Path, stop_after: int
) -> None:
    chosen = recipe()
    whole, state = run(tiny_model, chosen)
    assert len(whole) > stop_after
    adapter = create_adapter(tiny_model.model, chosen.adapter, chosen.training.seed)
    steps = start(tiny_model, adapter, chosen, checkpoint=Checkpoint(tmp_path / "c"))
    for _ in range(stop_after):
        next(steps)
    steps.close()
    adapter.detach()
    history: list[StepRecord] = []
    _, resumed = run(tiny_model, chosen, checkpoint=Checkpoint(tmp_path / "c"), resume=True, history=history)
    assert [step.step for step in history] == [step.step for step in whole]
    assert [step.loss for step in history] == [step.loss for step in whole]
    assert all(torch.equal(resumed[key], state[key]) for key in state)


@pytest.mark.parametrize(("count", "known"), [(4, 1.0), (3, 0.0)])
def test_what_was_known_of_other_tasks_is_not_taken_up(
    tiny_model: BaseModel, tmp_path: Path, count: int, known: float
) -> None:
    chosen = recipe("training.max_skip_epochs=8", "training.batch_tokens=100000")
    adapter = create_adapter(tiny_model.model, chosen.adapter, 0)
    objective = Objective(tiny_model.model, adapter, chosen.objective)

    def course(count: int) -> BatchSampler:
        tasks = [Task(f"What {index}?", answer, (index,), "test") for index, answer in enumerate(ANSWERS[:count])]
        document = Document("Merrow", TEXT, "test")
        return BatchSampler(tiny_model.tokenizer, tiny_model.window_tokens, document, sentences(), tasks, chosen)

    before, after = course(4), course(count)
    steps = train(adapter, objective, before, chosen.training, checkpoint=Checkpoint(tmp_path / "c"))
    next(steps)
    for task in range(4):
        before.leitner.record(task, 0, True)
    steps.close()
    resumed = train(adapter, objective, after, chosen.training, checkpoint=Checkpoint(tmp_path / "c"), resume=True)
    # what is known pauses in the next epoch, and there is no step in it
    assert [step.epoch for step in resumed][:1] == ([2] if known else [1])
    adapter.detach()


def test_an_error_in_the_middle_of_an_update_leaves_the_checkpoint_before_it(
    tiny_model: BaseModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    chosen = recipe()
    whole, _ = run(tiny_model, chosen)
    update = torch.optim.AdamW.step

    def failing(self: Any, *arguments: Any, **options: Any) -> Any:
        result = update(self, *arguments, **options)
        if len(done) == 3:
            raise KeyboardInterrupt
        return result

    monkeypatch.setattr(torch.optim.AdamW, "step", failing)
    done: list[StepRecord] = []
    with pytest.raises(KeyboardInterrupt):
        run(tiny_model, chosen, checkpoint=Checkpoint(tmp_path / "c"), checkpoint_every_s=0, history=done)
    monkeypatch.undo()
    fresh = BaseModel(tiny_llama(), tiny_model.tokenizer, "tiny", "0" * 64)
    history: list[StepRecord] = []
    run(fresh, chosen, checkpoint=Checkpoint(tmp_path / "c"), resume=True, history=history)
    assert [step.loss for step in history] == pytest.approx([step.loss for step in whole], abs=1e-5)


def test_a_bound_of_time_ends_the_training_and_the_rate_falls_with_it(tiny_model: BaseModel) -> None:
    machine = Machine(tiny_model.model, s_per_token=0.006)
    steps, _ = run(tiny_model, recipe("training.epochs=100000"), pace=Pace.within(60.0, machine.clock))
    assert 55 < sum(step.seconds for step in steps) <= 60
    assert steps[-1].learning_rate < 0.05 * max(step.learning_rate for step in steps)


def test_one_step_is_done_where_there_is_time_for_none(tiny_model: BaseModel) -> None:
    machine = Machine(tiny_model.model)
    steps, _ = run(tiny_model, recipe("training.epochs=100000"), pace=Pace.within(0.0, machine.clock))
    assert len(steps) == 1
    assert steps[0].tokens < 100


def test_the_last_batch_is_cut_to_what_there_is_time_for(tiny_model: BaseModel) -> None:
    machine = Machine(tiny_model.model, s_per_token=0.1)
    steps, _ = run(tiny_model, recipe("training.epochs=100000"), pace=Pace.within(100.0, machine.clock))
    assert 85 < machine.now <= 100
    assert steps[-1].tokens < steps[2].tokens


@pytest.mark.parametrize("turn", [3.0, 1 / 3])
def test_no_step_begins_that_would_end_too_late(tiny_model: BaseModel, turn: float) -> None:
    machine = Machine(tiny_model.model, s_per_token=0.006, slowness=lambda now: turn if now > 30 else 1.0)
    steps, _ = run(tiny_model, recipe("training.epochs=100000"), pace=Pace.within(60.0, machine.clock))
    assert 50 < machine.now <= 60
    assert steps[-1].learning_rate < 0.2 * max(step.learning_rate for step in steps)


def test_a_checkpoint_is_plain_json_and_safetensors(tiny_model: BaseModel, tmp_path: Path) -> None:
    chosen = recipe()
    adapter = create_adapter(tiny_model.model, chosen.adapter, 0)
    steps = start(tiny_model, adapter, chosen, checkpoint=Checkpoint(tmp_path / "c"))
    next(steps)
    steps.close()
    assert {path.name for path in (tmp_path / "c").iterdir()} == {
        "position.json",
        "tensors.safetensors",
        "training.jsonl",
        "checksums.json",
        "document.sha256",
    }
    assert json.loads((tmp_path / "c" / "position.json").read_text())["step"] == 1


@pytest.mark.parametrize("schedule", ["constant", "linear", "cosine"])
def test_the_rate_rises_from_zero_and_ends_where_the_schedule_says(schedule: str) -> None:
    rates = [learning_rate_multiplier(step / 100, schedule, 0.1) for step in range(101)]
    assert rates[0] == 0
    assert max(rates) == pytest.approx(1.0)
    assert rates[10] == pytest.approx(1.0)
    assert rates[-1] == pytest.approx(1.0 if schedule == "constant" else 0.0, abs=1e-9)
    assert all(later <= earlier + 1e-12 for earlier, later in pairwise(rates[10:]))
