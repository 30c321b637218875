"""What a training leaves on disk to be gone on from: disks that refuse, damage, weights that are not finite."""

from __future__ import annotations

import dataclasses
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import tiny_llama
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from memories.test_library_crash import fill_disk, interfere, kill_self, run_in_child
from training.test_training_loop import recipe, run, start

from lift.adapters.attach import create_adapter
from lift.errors import TrainingError, cleaning_up
from lift.models.base_model import BaseModel
from lift.packing.trie import Batch
from lift.training.checkpoint import Checkpoint, CheckpointDamaged, CheckpointNotice, Position, SavingFailed, State
from lift.training.objective import Objective, Outcome
from lift.training.training_loop import StepRecord

FILES = ["position.json", "tensors.safetensors", "training.jsonl", "checksums.json"]


def state(step: int = 3) -> State:
    return State(
        position=Position(epoch=1, update=2, step=step, tokens=100, elapsed_s=1.5, tasks=4),
        adapter={"a.lora_A.weight": torch.full((2, 3), float(step))},
        leitner=torch.tensor([[1, 2]]),
        correct=torch.tensor([0, 1], dtype=torch.uint8),
        optimizer={0: {"exp_avg": torch.ones(2, 3), "step": torch.tensor(3.0)}},
        history=[{"step": step, "loss": 0.5}],
    )


def step_in(directory: Path) -> int | None:
    """The step that a training would go on from; fails where the state is damaged, or a mixture of two."""
    notices: list[CheckpointNotice] = []
    found = Checkpoint(directory, notices.append).load(lambda _state: None)
    assert notices == []
    if found is None:
        return None
    assert found.adapter["a.lora_A.weight"].unique().tolist() == [found.position.step]
    assert [row["step"] for row in found.history] == [found.position.step]
    return found.position.step


def test_a_state_comes_back_as_it_was_saved(tmp_path: Path) -> None:
    checkpoint = Checkpoint(tmp_path / "c")
    assert checkpoint.load(lambda _state: None) is None
    assert checkpoint.save(state(2))
    assert checkpoint.save(state())
    found = Checkpoint(tmp_path / "c").load(lambda _state: None)
    assert found is not None
    assert found.position == state().position
    assert torch.equal(found.leitner, state().leitner)
    assert torch.equal(found.optimizer[0]["exp_avg"], torch.ones(2, 3))
    assert found.history == state().history
    assert os.listdir(tmp_path) == ["c"]


@pytest.mark.parametrize("only_once", [True, False], ids=["once", "from then on"])
def test_a_full_disk_at_every_call_leaves_the_checkpoint_before_or_the_new_one(tmp_path: Path, only_once: bool) -> None:
    for at in range(1, 100):
        told: list[CheckpointNotice] = []
        checkpoint = Checkpoint(tmp_path / str(at) / "c", told.append)
        assert checkpoint.save(state(1))
        with pytest.MonkeyPatch.context() as patch:
            count = interfere(patch, at, fill_disk, last=only_once)
            saved = checkpoint.save(state(2))
            again = checkpoint.save(state(2))
        assert step_in(checkpoint.directory) in ((2,) if saved or again else (1, 2))
        # what is told once is not told again while it lasts
        assert [type(each) for each in told] == ([] if saved and again else [SavingFailed])
        assert checkpoint.save(state(3))
        assert step_in(checkpoint.directory) == 3
        if count[0] < at:
            break
    assert at > 10


def test_a_kill_at_every_call_leaves_the_checkpoint_before_or_the_new_one(tmp_path: Path) -> None:
    for at in range(1, 100):
        checkpoint = Checkpoint(tmp_path / str(at) / "c")
        assert checkpoint.save(state(1))

        def work(checkpoint: Checkpoint = checkpoint, at: int = at) -> None:
            interfere(pytest.MonkeyPatch(), at, kill_self)
            checkpoint.save(state(2))

        ended_by = run_in_child(work)
        assert step_in(checkpoint.directory) in (1, 2)
        if not ended_by:
            break
    assert step_in(checkpoint.directory) == 2
    assert at > 10


@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(file=st.sampled_from(FILES), at=st.floats(0, 1, exclude_max=True), bit=st.integers(0, 7), how=st.integers(0, 2))
def test_whatever_is_damaged_is_put_aside_and_told_of(tmp_path: Path, file: str, at: float, bit: int, how: int) -> None:
    shutil.rmtree(tmp_path / "x", ignore_errors=True)
    directory = tmp_path / "x" / "c"
    Checkpoint(directory).save(state())
    content = bytearray((directory / file).read_bytes())
    place = int(at * len(content))
    if how == 0:
        content[place] ^= 1 << bit
        (directory / file).write_bytes(content)
    elif how == 1:
        (directory / file).write_bytes(content[:place])
    else:
        (directory / file).unlink()
    told: list[CheckpointNotice] = []
    found = Checkpoint(directory, told.append).load(lambda _state: None)
    if found is not None:  # white space within the list of checksums
        assert (file, how) == ("checksums.json", 0)
        return
    (notice,) = told
    assert isinstance(notice, CheckpointDamaged)
    assert "\n" not in str(notice)
    assert not directory.exists()
    assert notice.place is not None and notice.place.is_dir()
    assert notice.place.name.startswith("c.damaged-")
    assert Checkpoint(directory).save(state(4))
    assert step_in(directory) == 4


def train_until(base: BaseModel, directory: Path, steps: int, **options: Any) -> list[StepRecord]:
    """The first steps of a training that is saved after each of them, and then broken off."""
    chosen = recipe()
    adapter = create_adapter(base.model, chosen.adapter, chosen.training.seed)
    training = start(base, adapter, chosen, checkpoint=Checkpoint(directory), checkpoint_every_s=0, **options)
    done = [next(training) for _ in range(steps)]
    training.close()  # type: ignore[attr-defined]
    adapter.detach()
    return done


def test_a_training_with_a_damaged_checkpoint_begins_anew(tiny_model: BaseModel, tmp_path: Path) -> None:
    whole, expected = run(tiny_model, recipe())
    train_until(tiny_model, tmp_path / "c", 4)
    tensors = tmp_path / "c" / "tensors.safetensors"
    tensors.write_bytes(tensors.read_bytes()[:-1] + b"\x7f")
    told: list[CheckpointNotice] = []
    steps, found = run(tiny_model, recipe(), checkpoint=Checkpoint(tmp_path / "c", told.append), resume=True)
    assert [type(each) for each in told] == [CheckpointDamaged]
    assert [step.loss for step in steps] == pytest.approx([step.loss for step in whole], abs=1e-5)
    assert all(torch.allclose(found[key], expected[key], atol=1e-5) for key in expected)


def test_a_checkpoint_of_another_shape_is_put_aside_and_changes_nothing(tiny_model: BaseModel, tmp_path: Path) -> None:
    whole, _ = run(tiny_model, recipe())
    assert Checkpoint(tmp_path / "c").save(state())
    told: list[CheckpointNotice] = []
    steps, _ = run(tiny_model, recipe(), checkpoint=Checkpoint(tmp_path / "c", told.append), resume=True)
    assert [type(each) for each in told] == [CheckpointDamaged]
    assert [step.loss for step in steps] == pytest.approx([step.loss for step in whole], abs=1e-5)


def test_a_training_goes_on_where_its_state_cannot_be_saved(tiny_model: BaseModel, tmp_path: Path) -> None:
    whole, expected = run(tiny_model, recipe())
    (tmp_path / "no directory").write_text("")
    told: list[CheckpointNotice] = []
    place = Checkpoint(tmp_path / "no directory" / "c", told.append)
    steps, found = run(tiny_model, recipe(), checkpoint=place, checkpoint_every_s=0)
    assert len(steps) == len(whole)
    assert all(torch.allclose(found[key], expected[key], atol=1e-5) for key in expected)
    assert [str(each) for each in told] == [
        "the state of the training cannot be saved (not a directory); it goes on, and saving is tried again: make room "
        "on the library's disk"
    ]


def test_saving_is_tried_again_and_goes_on_from_there(tiny_model: BaseModel, tmp_path: Path) -> None:
    whole, _ = run(tiny_model, recipe())
    blocked = tmp_path / "library"
    blocked.write_text("")
    chosen, told = recipe(), list[CheckpointNotice]()
    adapter = create_adapter(tiny_model.model, chosen.adapter, chosen.training.seed)
    place = Checkpoint(blocked / "c", told.append)
    training = start(tiny_model, adapter, chosen, checkpoint=place, checkpoint_every_s=0)
    for _ in range(3):
        next(training)
    assert [type(each) for each in told] == [SavingFailed]
    blocked.unlink()
    next(training)
    training.close()  # type: ignore[attr-defined]
    adapter.detach()
    history: list[StepRecord] = []
    run(tiny_model, chosen, checkpoint=Checkpoint(blocked / "c"), resume=True, history=history)
    assert [step.loss for step in history] == pytest.approx([step.loss for step in whole], abs=1e-5)


@pytest.mark.parametrize("every_s", [0, 1e9], ids=["saved often", "saved at the end"])
@pytest.mark.parametrize("kind", ["lora", "gated-memory"])
def test_a_training_that_diverges_stops_and_leaves_its_last_finite_state(
    tiny_model: BaseModel, tmp_path: Path, kind: str, every_s: float
) -> None:
    wild = recipe(f"adapter.kind={kind}", "training.epochs=30")
    adapter = create_adapter(tiny_model.model, wild.adapter, 0)
    steps = start(tiny_model, adapter, wild, checkpoint=Checkpoint(tmp_path / "c"), checkpoint_every_s=every_s)
    for _ in range(3):
        next(steps)
    with torch.no_grad():
        adapter.parameters()[-1].fill_(float("nan"))
    with pytest.raises(TrainingError, match=r"expected finite numbers in step [34] .* lower training.learning_rate"):
        list(steps)
    kept = Checkpoint(tmp_path / "c").load(lambda _state: None)
    assert kept is None or all(tensor.isfinite().all() for tensor in kept.adapter.values())
    assert (kept is None) == bool(every_s)


def test_a_rate_that_is_far_too_high_is_said_and_not_saved(tiny_model: BaseModel, tmp_path: Path) -> None:
    wild = recipe("training.learning_rate=1e30", "training.schedule=constant", "training.warmup_share=0")
    with pytest.raises(TrainingError, match=r"finite|at most 100"):
        run(tiny_model, wild, checkpoint=Checkpoint(tmp_path / "c"), checkpoint_every_s=0)
    kept = Checkpoint(tmp_path / "c").load(lambda _state: None)
    assert kept is None or all(tensor.isfinite().all() for tensor in kept.adapter.values())


def change_loss(patch: pytest.MonkeyPatch, step: int, change: Callable[[torch.Tensor], torch.Tensor]) -> None:
    """Have the loss of the `step`-th batch, counted from 1, be another."""
    really, count = Objective.outcome, [0]

    def outcome(objective: Objective, batch: Batch) -> Outcome:
        count[0] += 1
        found = really(objective, batch)
        return dataclasses.replace(found, loss=change(found.loss)) if count[0] == step else found

    patch.setattr(Objective, "outcome", outcome)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda loss: loss * float("nan"), "finite numbers in step 4 .* a loss of nan"),
        (lambda loss: loss * float("inf"), "finite numbers in step 4 .* a loss of inf"),
        (lambda loss: loss * 1e4, "a loss of at most 100 in step 4 .* lower training.learning_rate"),
        # finite itself, and not in its gradient
        (lambda loss: loss + 0 * torch.sqrt(loss - loss), "finite numbers in step 4 .* a gradient of nan"),
    ],
    ids=["nan", "infinite", "exploding", "gradient"],
)
def test_a_loss_that_is_none_stops_the_training_with_the_state_before_it(
    tiny_model: BaseModel,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    change: Callable[[torch.Tensor], torch.Tensor],
    said: str,
) -> None:
    history: list[StepRecord] = []
    with monkeypatch.context() as patch:
        patch.setattr("lift.training.training_loop._MOST_SAVING", float("inf"))
        change_loss(patch, 4, change)
        with pytest.raises(TrainingError, match=said) as caught:
            run(tiny_model, recipe(), checkpoint=Checkpoint(tmp_path / "c"), checkpoint_every_s=0, history=history)
    assert "\n" not in str(caught.value)
    kept = Checkpoint(tmp_path / "c").load(lambda _state: None)
    assert kept is not None
    assert kept.position.step == len(history) == 3
    # and from there the training goes on as if nothing had been
    fresh = BaseModel(tiny_llama(), tiny_model.tokenizer, "tiny", "0" * 64)
    whole, state = run(fresh, recipe())
    adapter = create_adapter(fresh.model, recipe().adapter, 0)
    steps = list(start(fresh, adapter, recipe(), checkpoint=Checkpoint(tmp_path / "c"), resume=True))
    assert [step.loss for step in steps] == [step.loss for step in whole[3:]]
    assert all(torch.equal(value, state[key]) for key, value in adapter.trained_state().items())
    adapter.detach()


def test_a_training_without_a_gradient_is_told_so_and_leaves_nothing(
    tiny_model: BaseModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    change_loss(monkeypatch, 1, lambda loss: loss.detach() + 0 * loss)
    with pytest.raises(TrainingError, match="expected a gradient in the first step") as caught:
        run(tiny_model, recipe(), checkpoint=Checkpoint(tmp_path / "c"), checkpoint_every_s=0)
    assert "\n" not in str(caught.value)
    assert os.listdir(tmp_path) == []


def test_examples_without_weight_are_refused(tiny_model: BaseModel, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Objective, "weight_of", lambda _self, _examples: 0.0)
    with pytest.raises(TrainingError, match="weight above 0 in step 1"):
        run(tiny_model, recipe())


def fail(message: str) -> None:
    raise OSError(message)


def test_the_error_of_a_run_is_never_masked_by_one_of_its_clean_up() -> None:
    done: list[str] = []
    with (
        pytest.raises(MemoryError, match="the run") as caught,
        cleaning_up(lambda: fail("first"), lambda: done.append("second"), lambda: fail("third")),
    ):
        raise MemoryError("the run")
    assert done == ["second"]
    assert [note.rpartition(": ")[2] for note in caught.value.__notes__] == ["first", "third"]


def test_an_error_of_the_clean_up_alone_is_raised_and_all_steps_are_taken() -> None:
    done: list[str] = []
    with pytest.raises(OSError, match="first"), cleaning_up(lambda: fail("first"), lambda: done.append("second")):
        pass
    assert done == ["second"]


def test_a_generator_that_is_closed_is_cleaned_up() -> None:
    done: list[str] = []

    def numbers(steps: list[Any]) -> Any:
        with cleaning_up(*steps):
            yield 1

    running = numbers([lambda: done.append("closed")])
    next(running)
    running.close()
    assert done == ["closed"]
    running = numbers([lambda: fail("while closing")])
    next(running)
    with pytest.raises(OSError, match="while closing"):
        running.close()
