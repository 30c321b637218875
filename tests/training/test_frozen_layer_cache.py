"""Layers below the adapter, computed once: the same losses and gradients, with less computed and a bound kept."""

from __future__ import annotations

import os
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from gradients import loss_and_gradient
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_models import ARCHITECTURES, deep, tiny

from lift.absorbing import planning
from lift.absorbing.absorb import absorb_events
from lift.absorbing.absorption_events import Finished
from lift.absorbing.planning import Calibration, calibrate, make_plan
from lift.absorbing.preparation import prepare, prepare_document
from lift.absorbing.resolved_recipe import resolve
from lift.absorbing.task_writing import TaskWriter
from lift.adapters.adapter import Adapter
from lift.adapters.attach import create_adapter, restore_adapter
from lift.documents.document import Document
from lift.memories.library import MemoryLibrary
from lift.models.base_model import BaseModel
from lift.models.fingerprint import cache_directory
from lift.packing.prompts import IGNORED, Example
from lift.packing.trie import Batch, pack
from lift.recipes.recipe import AdapterSettings, ObjectiveSettings, Recipe, load_recipe
from lift.training.activation_store import UNKNOWN, ActivationStore
from lift.training.checkpoint import Checkpoint
from lift.training.frozen_layer_cache import caching_frozen_layers
from lift.training.objective import Objective
from lift.training.training_loop import StepRecord, train

KINDS = {
    "lora": AdapterSettings(kind="lora", rank=4, alpha=8, layers=(3, 2)),
    "pissa": AdapterSettings(kind="pissa", rank=4, alpha=4, layers=(2, 3)),
    "dora": AdapterSettings(kind="dora", rank=4, alpha=8, layers=(2,)),
    "query": AdapterSettings(kind="gated-memory", layers=(2, 3)),
    "exact": AdapterSettings(kind="gated-memory", gate="exact", layers=(3, 2)),
}
TEXT = "Ada Quill founded the museum of Merrow in 1911. It owns 42 lenses. The tower burned in 1907."


def sample(*ids: int, drawn_anew: bool = False) -> Example:
    return Example(ids, (*[IGNORED] * (len(ids) - 1), ids[-1]), drawn_anew=drawn_anew)


# three batches that have a head, a question and a context in common with others
BATCHES = [
    pack([sample(1, 40, 50, 60, 30, 5, 17), sample(1, 40, 50, 9, 12)]),
    pack([sample(1, 40, 50, 60, 30, 5, 18, 22), sample(1, 40, 7, 8, 9, 10, 11, drawn_anew=True)]),
    pack([sample(1, 40, 50, 9, 13, 14), sample(2, 3, 4), sample(1, 40, 7, 8, 9, 10, 44, drawn_anew=True)]),
]

paths = st.builds(
    lambda ids, anew: sample(*ids, drawn_anew=anew), st.lists(st.integers(3, 5), min_size=2, max_size=7), st.booleans()
)
sequences = st.lists(st.lists(paths, min_size=1, max_size=4).map(pack), min_size=1, max_size=6)


def disturb(adapter: Adapter) -> None:
    """Parameters as they might be after training: no one is zero any more."""
    generator = torch.Generator().manual_seed(7)
    for parameter in adapter.parameters():
        parameter.data.add_(0.1 * torch.randn(parameter.shape, generator=generator))


def expect_equal(model: Any, adapter: Adapter, chosen: ObjectiveSettings, batches: list[Batch]) -> None:
    """Two epochs of `batches`, with and without reuse."""
    adapter.set_trainable(True)
    with caching_frozen_layers(model, adapter) as lower:
        assert lower is not None
        plain, reusing = Objective(model, adapter, chosen), Objective(model, adapter, chosen, lower)
        for batch in [*batches, *batches]:
            loss, gradient = loss_and_gradient(plain, adapter, batch)
            again, found = loss_and_gradient(reusing, adapter, batch)
            assert again == pytest.approx(loss, rel=2e-6)
            assert (found - gradient).norm() <= 1e-5 * gradient.norm()


@contextmanager
def counting(model: Any) -> Iterator[list[int]]:
    """The tokens of every pass through the first layer."""
    passes: list[int] = []

    def count(_module: Any, args: Any) -> None:
        passes.append(args[0].shape[1])

    handle = model.base_model.layers[0].mlp.register_forward_pre_hook(count)
    try:
        yield passes
    finally:
        handle.remove()


def interrupt(*_args: Any) -> None:
    raise KeyboardInterrupt


@pytest.mark.parametrize("kind", list(KINDS))
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_losses_and_gradients_are_those_without_and_the_model_is_as_it_was(architecture: str, kind: str) -> None:
    model = deep(architecture)
    with torch.no_grad():
        before = model(BATCHES[0].ids[None]).logits
    adapter = create_adapter(model, KINDS[kind], seed=0)
    disturb(adapter)
    expect_equal(model, adapter, ObjectiveSettings(), BATCHES)
    adapter.detach()
    assert not any("forward" in vars(module) or module._forward_hooks for module in model.modules())
    with torch.no_grad():
        assert torch.equal(model(BATCHES[0].ids[None]).logits, before)


def test_distillation_and_the_gates_penalty_are_those_without() -> None:
    model = deep("llama")
    adapter = create_adapter(model, KINDS["query"], seed=0)
    disturb(adapter)
    taught = pack([replace(sample(1, 40, 50, 60, 30), teacher_ids=(1, 33, 40, 50)), sample(1, 40, 7)])
    expect_equal(model, adapter, ObjectiveSettings(distillation=1.0, gate_penalty=0.5), [taught, *BATCHES])


@pytest.mark.parametrize("kind", list(KINDS))
def test_an_adapter_knows_its_first_layer_before_and_after_it_was_stored(kind: str) -> None:
    model = deep("llama")
    adapter = create_adapter(model, KINDS[kind], seed=0)
    assert adapter.first_layer == 2
    stored = adapter.stored()
    adapter.detach()
    restored = restore_adapter(model, *stored)
    assert restored.first_layer == 2
    restored.detach()
    assert create_adapter(model, KINDS[kind].model_copy(update={"layers": ()}), seed=0).first_layer == 0


@settings(deadline=None, max_examples=8)
@given(sequences, st.integers(1, 3), st.integers(0, 30))
def test_states_are_those_of_each_path_alone_whatever_came_before(
    batches: list[Batch], first: int, bound_rows: int
) -> None:
    model = tiny("llama", num_hidden_layers=4)
    adapter = create_adapter(model, AdapterSettings(rank=2, layers=(first,)), seed=0)
    with caching_frozen_layers(model, adapter, bound_rows * 64) as lower:  # 16 wide, 4 bytes each
        assert lower is not None
        assert lower.most_tokens == bound_rows
        for batch in [*batches, *batches]:
            states = lower.states(batch)  # [T, d]
            for node in range(batch.tokens):
                path = [node]
                while batch.parents[path[0]] >= 0:
                    path.insert(0, batch.parents[path[0]])
                with torch.no_grad():
                    alone = model(batch.ids[path][None], output_hidden_states=True).hidden_states[first]
                torch.testing.assert_close(states[node], alone[0, -1], atol=1e-4, rtol=1e-4)


def test_what_is_known_is_not_computed_and_what_is_drawn_anew_is_not_kept() -> None:
    model = deep("llama")
    adapter = create_adapter(model, KINDS["lora"], seed=0)
    with caching_frozen_layers(model, adapter) as lower, counting(model) as passes:
        assert lower is not None
        for _ in range(3):
            for batch in BATCHES:
                lower.logits(batch)
    # the first epoch computes what is missing with its ancestors, the others the paths of the contexts alone
    assert passes == [7, 11, 11, 6, 6, 6, 6]


def test_beyond_the_bound_nodes_are_computed_anew() -> None:
    model = deep("llama")
    adapter = create_adapter(model, KINDS["lora"], seed=0)
    long, short = pack([sample(1, 40, 50, 60, 30, 5)]), pack([sample(1, 40, 50, 9)])
    with caching_frozen_layers(model, adapter, 4 * 64) as lower, counting(model) as passes:
        assert lower is not None
        for batch in (long, long, short, pack([sample(8, 9)]), pack([sample(8, 9)])):
            lower.states(batch)
    assert passes == [5, 5, 1, 1]


def test_where_nothing_can_be_reused_the_pass_is_plain() -> None:
    everywhere = create_adapter(deep("llama"), AdapterSettings(rank=2), seed=0)
    dynamic = deep("llama", rope_parameters={"rope_type": "dynamic", "factor": 2.0, "rope_theta": 10000.0})
    shared = deep("llama")
    shared.config.num_kv_shared_layers = 2
    uneven = deep("llama")
    uneven.config.num_hidden_layers = 3
    dropping = deep("llama", attention_dropout=0.5).train()
    adapters = [everywhere]
    for model in (dynamic, shared, uneven, dropping):
        adapters.append(create_adapter(model, AdapterSettings(rank=2, layers=(2,)), seed=0))
    for adapter in adapters:
        with caching_frozen_layers(adapter.model, adapter) as lower:
            assert lower is None
        with adapter.disabled():
            assert not any("forward" in vars(module) for module in adapter.model.modules())


def test_a_forward_that_was_put_on_a_layer_stays_there_after_an_error() -> None:
    model = deep("llama")
    adapter = create_adapter(model, KINDS["lora"], seed=0)
    layer = model.base_model.layers[0]
    own = layer.forward
    layer.forward = own
    with caching_frozen_layers(model, adapter) as lower:
        assert lower is not None
        handle = model.base_model.layers[3].register_forward_pre_hook(interrupt)
        with pytest.raises(KeyboardInterrupt):
            lower.logits(BATCHES[0])
        handle.remove()
    assert vars(layer)["forward"] is own
    assert not any("forward" in vars(other) for other in model.base_model.layers[1:])


@settings(deadline=None)
@given(sequences, st.integers(0, 30), st.sampled_from([torch.float32, torch.bfloat16]))
def test_a_store_gives_back_what_it_got_and_keeps_its_bound(
    batches: list[Batch], bound_rows: int, dtype: torch.dtype
) -> None:
    generator = torch.Generator().manual_seed(0)
    stored: dict[tuple[int, ...], torch.Tensor] = {}
    with ActivationStore(5, dtype, bound_rows * 5 * dtype.itemsize + 3) as store:
        for batch in batches:
            paths: list[tuple[int, ...]] = []
            for token, parent in zip(batch.ids.tolist(), batch.parents, strict=True):
                paths.append((*(paths[parent] if parent >= 0 else ()), token))
            rows = store.rows(batch)
            assert [row != UNKNOWN for row in rows] == [path in stored for path in paths]
            known = [node for node, row in enumerate(rows) if row != UNKNOWN]
            expected = [stored[paths[node]] for node in known]
            found = store.read([rows[node] for node in known])  # [known, 5]
            assert all(torch.equal(*pair) for pair in zip(found, expected, strict=True))
            states = torch.randn(batch.tokens, 5, generator=generator).to(dtype)  # [T, d]
            wanted = [len(path) < 5 for path in paths]
            store.add(batch, rows, wanted, states)
            for node, path in enumerate(paths):
                if wanted[node] and path not in stored and len(stored) < bound_rows:
                    stored[path] = states[node]
            assert len(store) == len(stored) <= bound_rows


def test_a_store_of_many_paths_finds_each_of_them() -> None:
    batches = [pack([sample(*range(start, start + 50))]) for start in range(3000, 0, -7)]
    with ActivationStore(1, torch.float32, 1 << 20) as store:
        for number, batch in enumerate(batches):
            store.add(batch, store.rows(batch), [True] * 49, torch.full((49, 1), float(number)))
        assert all(store.read(store.rows(batch)).eq(number).all() for number, batch in enumerate(batches))


def test_a_full_disk_ends_the_storing_and_nothing_else() -> None:
    first, second = pack([sample(1, 2, 3)]), pack([sample(1, 2, 3), sample(*range(5, 45))])
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    with ActivationStore(1024, torch.float32, 1 << 30) as store:
        store.add(first, store.rows(first), [True] * 2, torch.ones(2, 1024))
        try:
            resource.setrlimit(resource.RLIMIT_FSIZE, (40960, limits[1]))
            rows = store.rows(second)
            store.add(second, rows, [True] * second.tokens, torch.zeros(second.tokens, 1024))
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        assert store.rows(second) == rows == [0, 1, *[UNKNOWN] * 39]
        assert store.read([0, 1]).eq(1).all()
        assert len(store) == store.most_rows == 2


EVERYWHERE = ("adapter.activated=false", "regularisation.kl_share=0.5", "training.full_batch=true")


def chosen_recipe(*overrides: str) -> Recipe:
    fixed = ["training.epochs=2", "adapter.rank=4", "tasks.per_sentence=2", "training.batch_tokens=160"]
    return load_recipe("default", [*fixed, "adapter.layers=[1]", *overrides])


@pytest.mark.parametrize("changes", [(), ("training.max_skip_epochs=8", "objective.distillation=0.5"), EVERYWHERE])
def test_an_interrupted_training_ends_as_an_uninterrupted_and_as_a_plain_one(
    tiny_model: BaseModel, tmp_path: Path, changes: tuple[str, ...]
) -> None:
    recipe = chosen_recipe("training.epochs=3", *changes)
    made = prepare_document(Document("Merrow", TEXT, "test"), tiny_model, recipe)
    tasks = [task for piece in TaskWriter(made, tiny_model, recipe).stream() for task in piece.tasks]
    sampler = prepare(made, tasks, tiny_model, resolve(recipe, tiny_model)).sampler

    def run(*, plain: bool = False, most: int = 1000, **options: Any) -> list[float]:
        adapter = create_adapter(tiny_model.model, recipe.adapter, 0)
        history: list[StepRecord] = []
        with caching_frozen_layers(tiny_model.model, adapter) as lower:
            objective = Objective(tiny_model.model, adapter, recipe.objective, None if plain else lower)
            steps: Any = train(adapter, objective, sampler, recipe.training, history=history, **options)
            for _, _step in zip(range(most), steps, strict=False):
                pass
            steps.close()
        adapter.detach()
        return [step.loss for step in history]

    whole = run()
    assert whole == pytest.approx(run(plain=True), abs=1e-5)
    for parts in (2, 9):
        most = len(whole) // parts
        assert run(most=most, checkpoint=Checkpoint(tmp_path / str(parts))) == whole[:most]
        # interrupted once more: what was gone through again is kept as well
        again = run(most=3, checkpoint=Checkpoint(tmp_path / str(parts)), resume=True)
        assert again == whole[: most + 3]
        # to the last bit: a state that another batch computed would differ in the last digits
        assert run(checkpoint=Checkpoint(tmp_path / str(parts)), resume=True) == whole


def test_a_disk_that_refuses_the_cache_costs_no_training(tiny_model: BaseModel, tmp_path: Path) -> None:
    adapter = create_adapter(tiny_model.model, chosen_recipe().adapter, 0)
    cache_directory().parent.mkdir(parents=True, exist_ok=True)
    cache_directory().write_text("a file in its place")
    with caching_frozen_layers(tiny_model.model, adapter) as lower:
        assert lower is None
    adapter.detach()


def test_an_absorption_leaves_no_file(tiny_model: BaseModel) -> None:
    opened = len(os.listdir("/proc/self/fd"))
    events = []
    for event in absorb_events(Document("Merrow", TEXT, "test"), tiny_model, chosen_recipe(), MemoryLibrary()):
        events.append(event)
        assert not any(path.is_file() for path in cache_directory().glob("*"))
    assert isinstance(events[-1], Finished)
    assert len(os.listdir("/proc/self/fd")) <= opened
    assert not any("forward" in vars(module) for module in tiny_model.model.modules())


def test_a_forecast_counts_the_first_epoch_at_its_own_speed(tiny_model: BaseModel) -> None:
    calibration = Calibration(first_tokens_per_s=10.0, later_tokens_per_s=20.0, epoch_tokens=100, total_tokens=500)
    assert calibration.total_s == 10 + 20
    assert calibration.tokens_per_s == pytest.approx(500 / 30)
    assert [calibration.tokens_in(seconds) for seconds in (0.0, 5.0, 10.0, 15.0, 30.0)] == [0, 50, 100, 200, 500]
    assert calibration.share_in(15.0) == pytest.approx(0.4)
    plan = make_plan(Document("Merrow", TEXT, "test"), tiny_model, chosen_recipe())
    assert plan.epochs == pytest.approx(2.0, rel=0.01)


def test_the_speed_of_later_epochs_is_timed_on_states_that_are_known(
    tiny_model: BaseModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = chosen_recipe("context.share=0")
    made = prepare_document(Document("Merrow", TEXT, "test"), tiny_model, recipe)
    tasks = [task for piece in TaskWriter(made, tiny_model, recipe).stream() for task in piece.tasks]
    sampler = prepare(made, tasks, tiny_model, resolve(recipe, tiny_model)).sampler
    batches = [pack(batch) for update in sampler.optimizer_steps(0) for batch in update.batches]
    tokens = sum(batch.tokens for batch in batches)
    monkeypatch.setattr(planning, "CALIBRATION_TOKENS", tokens + 1)  # so that some of them are timed twice
    adapter = create_adapter(tiny_model.model, recipe.adapter, 0)
    with counting(tiny_model.model) as passes:
        calibrate(tiny_model, adapter, sampler, recipe)
    # the warm-up, four passes of the trial, and each batch once
    assert len(passes) == 1 + 2 + len(batches)
