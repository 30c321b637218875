"""Low-rank adapters of every kind, several adapters on one base, and the choice among them.

The table of all kinds over all architectures is in test_adapter_architectures.py.
"""

import gc
import json
import weakref
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import logits, tiny_llama
from peft import PeftModel
from safetensors.torch import save_file

from lift.adapters.adapter import Adapter, attached
from lift.adapters.attach import create_adapter, restore_adapter
from lift.adapters.resident import attach_stored, release
from lift.adapters.row_assignment import activate, rows
from lift.errors import AdapterError
from lift.inference.generate import generate
from lift.models.base_model import BaseModel
from lift.recipes.recipe import AdapterSettings

KINDS = ["lora", "pissa", "dora"]
TOKENS = [1, 40, 50, 60, 70]


def disturb(adapter: Adapter, size: float = 0.1) -> None:
    generator = torch.Generator().manual_seed(7)
    for parameter in adapter.parameters():
        parameter.data.add_(size * torch.randn(parameter.shape, generator=generator))


def trained(model: Any, kind: str) -> Adapter:
    adapter = create_adapter(model, AdapterSettings(kind=kind, rank=4, alpha=8), seed=0)
    disturb(adapter)
    return adapter


@pytest.mark.parametrize("kind", KINDS)
def test_a_new_adapter_changes_nothing(tiny_model: BaseModel, kind: str) -> None:
    before = logits(tiny_model.model, TOKENS)
    create_adapter(tiny_model.model, AdapterSettings(kind=kind, rank=4), seed=0)
    torch.testing.assert_close(logits(tiny_model.model, TOKENS), before, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_detaching_restores_the_base_bit_for_bit(tiny_model: BaseModel, kind: str) -> None:
    before = logits(tiny_model.model, TOKENS)
    names = [name for name, _ in tiny_model.model.named_parameters()]
    adapter = trained(tiny_model.model, kind)
    assert not torch.equal(logits(tiny_model.model, TOKENS), before)
    adapter.detach()
    assert torch.equal(logits(tiny_model.model, TOKENS), before)
    assert [name for name, _ in tiny_model.model.named_parameters()] == names


@pytest.mark.parametrize("kind", KINDS)
def test_a_stored_adapter_gives_the_same_logits_and_can_be_turned_off(tiny_model: BaseModel, kind: str) -> None:
    base = logits(tiny_model.model, TOKENS)
    adapter = trained(tiny_model.model, kind)
    with_memory = logits(tiny_model.model, TOKENS)
    config, state = adapter.stored()
    adapter.detach()
    restored = restore_adapter(tiny_model.model, config, state)
    torch.testing.assert_close(logits(tiny_model.model, TOKENS), with_memory, atol=1e-5, rtol=1e-4)
    with restored.disabled():
        assert torch.equal(logits(tiny_model.model, TOKENS), base)
    torch.testing.assert_close(logits(tiny_model.model, TOKENS), with_memory, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("kind", KINDS)
def test_peft_itself_reads_what_is_stored(tiny_model: BaseModel, kind: str, tmp_path: Path) -> None:
    adapter = trained(tiny_model.model, kind)
    with_memory = logits(tiny_model.model, TOKENS)
    config, state = adapter.stored()
    (tmp_path / "adapter_config.json").write_text(json.dumps(config))
    save_file(
        {f"base_model.model.{key}": value.contiguous() for key, value in state.items()},
        tmp_path / "adapter_model.safetensors",
    )
    peft_model = PeftModel.from_pretrained(tiny_llama(), str(tmp_path))
    torch.testing.assert_close(logits(peft_model.eval(), TOKENS), with_memory, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("kind", KINDS)
def test_gradients_reach_the_adapter_alone(tiny_model: BaseModel, kind: str) -> None:
    adapter = trained(tiny_model.model, kind)
    adapter.set_trainable(True)
    tiny_model.model(torch.tensor([TOKENS])).logits.square().mean().backward()
    own = {id(weight) for weight in adapter.parameters()}
    assert all(weight.grad is not None for weight in adapter.parameters())
    assert not [
        name
        for name, weight in tiny_model.model.named_parameters()
        if weight.grad is not None and id(weight) not in own
    ]


def test_the_same_seed_makes_the_same_adapter(tiny_model: BaseModel) -> None:
    states = []
    for seed in (3, 3, 4):
        adapter = create_adapter(tiny_model.model, AdapterSettings(rank=4), seed)
        states.append(torch.cat([value.flatten() for value in adapter.trained_state().values()]))
        adapter.detach()
    assert torch.equal(states[0], states[1])
    assert not torch.equal(states[0], states[2])


@pytest.mark.parametrize("change", ["missing", "surplus", "shape"])
def test_an_adapter_that_does_not_fit_is_refused_and_the_base_left_clean(tiny_model: BaseModel, change: str) -> None:
    before = logits(tiny_model.model, TOKENS)
    adapter = trained(tiny_model.model, "lora")
    config, state = adapter.stored()
    adapter.detach()
    first = next(iter(state))
    if change == "missing":
        del state[first]
    elif change == "surplus":
        state["model.layers.9.lora_A.weight"] = torch.zeros(2)
    else:
        state[first] = state[first][:1]
    with pytest.raises(AdapterError):
        restore_adapter(tiny_model.model, config, state)
    assert torch.equal(logits(tiny_model.model, TOKENS), before)


def test_targets_that_match_nothing_are_refused() -> None:
    model = torch.nn.Sequential(torch.nn.Linear(4, 4))
    with pytest.raises(AdapterError, match="expected matrices"):
        create_adapter(model, AdapterSettings(rank=2), seed=0)


def test_memories_switch_on_a_resident_base(tiny_model: BaseModel) -> None:
    model = tiny_model.model
    before = logits(model, TOKENS)
    kinds = ("lora", "dora", "gated-memory")
    stored = {}
    for index, kind in enumerate(kinds):
        adapter = create_adapter(model, AdapterSettings(kind=kind, rank=2 + index), seed=index)
        disturb(adapter)
        stored[kind] = (adapter.stored(), logits(model, TOKENS))
        adapter.detach()
    for kind in (*kinds, "lora"):
        attach_stored(model, kind, lambda kind=kind: stored[kind][0])  # type: ignore[misc]
        torch.testing.assert_close(logits(model, TOKENS), stored[kind][1], atol=1e-5, rtol=1e-4)
        assert list(attached(model)) == [kind]
    again = attach_stored(model, "lora", lambda: pytest.fail("loaded although it was attached"))
    assert again.parameters()
    release(model)
    assert torch.equal(logits(model, TOKENS), before)


def test_a_memory_that_does_not_fit_leaves_the_base_without_one(tiny_model: BaseModel) -> None:
    model = tiny_model.model
    before = logits(model, TOKENS)
    config, state = trained(model, "lora").stored()
    attached(model)["default"].detach()
    attach_stored(model, "good", lambda: (config, state))
    with pytest.raises(AdapterError, match="tensors missing"):
        attach_stored(model, "bad", lambda: (config, {}))
    assert torch.equal(logits(model, TOKENS), before)


@pytest.mark.parametrize("kind", KINDS)
def test_the_chosen_layers_alone_get_an_adapter(tiny_model: BaseModel, kind: str) -> None:
    model = tiny_model.model
    before = logits(model, TOKENS)
    adapter = create_adapter(model, AdapterSettings(kind=kind, rank=4, layers=(1,)), seed=0)
    disturb(adapter)
    with_memory = logits(model, TOKENS)
    config, state = adapter.stored()
    assert state and all(".layers.1." in key for key in state)
    adapter.detach()
    assert torch.equal(logits(model, TOKENS), before)
    restore_adapter(model, config, state)
    torch.testing.assert_close(logits(model, TOKENS), with_memory, atol=1e-5, rtol=1e-4)


def test_layers_that_the_model_lacks_are_refused(tiny_model: BaseModel) -> None:
    with pytest.raises(AdapterError, match=r"from 0 to 1, got \[2\]"):
        create_adapter(tiny_model.model, AdapterSettings(layers=(0, 2)), seed=0)


def test_pissa_in_training_can_be_switched_off_between_steps(tiny_model: BaseModel) -> None:
    model = tiny_model.model
    before = logits(model, TOKENS)
    results = []
    for look_away in (False, True):
        adapter = create_adapter(model, AdapterSettings(kind="pissa", rank=4, alpha=4), seed=0)
        adapter.set_trainable(True)
        optimizer = torch.optim.SGD(adapter.parameters(), lr=0.1)
        for _ in range(2):
            loss = model(torch.tensor([TOKENS])).logits.square().mean()
            if look_away:
                with adapter.disabled():
                    assert torch.equal(logits(model, TOKENS), before)
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
        results.append(logits(model, TOKENS))
        adapter.detach()
    assert torch.equal(results[0], results[1])
    assert not torch.allclose(results[0], before, atol=1e-3)


def test_pissa_in_training_shares_no_batch(tiny_model: BaseModel) -> None:
    create_adapter(tiny_model.model, AdapterSettings(kind="pissa", rank=4), seed=0)
    before = logits(tiny_model.model, TOKENS)
    with pytest.raises(AdapterError, match="store and restore"), rows(tiny_model.model, ["default", None]):
        pass
    assert torch.equal(logits(tiny_model.model, TOKENS), before)


def test_pissa_of_quantised_weights_is_refused_in_a_sentence() -> None:
    model = tiny_llama()
    layer = model.model.layers[1].self_attn.q_proj
    layer.weight = torch.nn.Parameter(torch.ones_like(layer.weight, dtype=torch.int8), requires_grad=False)
    with pytest.raises(AdapterError, match=r"not quantised.*got torch\.int8; use adapter\.kind=lora"):
        create_adapter(model, AdapterSettings(kind="pissa", rank=4), seed=0)
    assert not attached(model)


def test_one_of_several_adapters_is_active(tiny_model: BaseModel) -> None:
    model = tiny_model.model
    expected: dict[str | None, Any] = {None: logits(model, TOKENS)}
    for index, kind in enumerate(("lora", "dora", "gated-memory")):
        adapter = create_adapter(model, AdapterSettings(kind=kind, rank=4), index, kind)
        disturb(adapter)
        expected[kind] = logits(model, TOKENS)
    for name in ("dora", None, "lora", "gated-memory"):
        activate(model, name)
        assert torch.equal(logits(model, TOKENS), expected[name])
    attached(model)["dora"].detach()
    assert torch.equal(logits(model, TOKENS), expected["gated-memory"])
    # a name that DoRA had is free for another kind
    disturb(create_adapter(model, AdapterSettings(rank=4), 0, "dora"))
    torch.testing.assert_close(logits(model, TOKENS), expected["lora"])
    activate(model, "lora")
    assert torch.equal(logits(model, TOKENS), expected["lora"])
    with pytest.raises(AdapterError, match="attach them first"):
        activate(model, "other")
    with pytest.raises(AdapterError, match="attached already"):
        create_adapter(model, AdapterSettings(rank=4), 0, "lora")
    assert torch.equal(logits(model, TOKENS), expected["lora"])


def test_a_second_adapter_leaves_the_gradients_of_the_first_alone(tiny_model: BaseModel) -> None:
    first = create_adapter(tiny_model.model, AdapterSettings(rank=4), 0, "first")
    first.set_trainable(True)
    second = create_adapter(tiny_model.model, AdapterSettings(kind="dora", rank=4), 0, "second")
    activate(tiny_model.model, "first")
    assert all(parameter.requires_grad for parameter in first.parameters())
    assert not any(parameter.requires_grad for parameter in second.parameters())
    second.detach()
    assert all(parameter.requires_grad for parameter in first.parameters())


def test_a_batch_of_another_size_than_its_names_is_refused(tiny_model: BaseModel) -> None:
    model = tiny_model.model
    trained(model, "lora")
    with rows(model, ["default", None]) as assignment:
        with pytest.raises(AdapterError, match="batch of 2 rows"):
            model(torch.tensor([TOKENS] * 3))
        assignment.assign([assignment.names[row] for row in [0]])
        model(torch.tensor([TOKENS]))
    model(torch.tensor([TOKENS] * 3))
    with pytest.raises(AdapterError, match="attach them first"), rows(model, ["other"]):
        pass


def test_attaching_leaves_the_global_random_state_alone(tiny_model: BaseModel) -> None:
    state = torch.random.get_rng_state()
    for settings in (AdapterSettings(rank=4), AdapterSettings(kind="gated-memory", gate="exact")):
        adapter = create_adapter(tiny_model.model, settings, seed=0)
        config, tensors = adapter.stored()
        adapter.detach()
        restore_adapter(tiny_model.model, config, tensors).detach()
    assert torch.equal(torch.random.get_rng_state(), state)


@pytest.mark.parametrize("kind", ["lora", "gated-memory"])
def test_a_model_that_nobody_holds_is_freed(kind: str) -> None:
    model = tiny_llama()
    create_adapter(model, AdapterSettings(kind=kind, rank=4, gate="exact"), seed=0)
    reference = weakref.ref(model)
    del model
    gc.collect()
    assert reference() is None


@pytest.mark.parametrize(
    "config",
    [{}, {"adapter": "other"}, {"peft_type": "IA3"}, {"peft_type": "LORA", "r": 0}, {"peft_type": "LORA", "x": 1}],
)
def test_a_configuration_of_another_kind_is_refused(tiny_model: BaseModel, config: dict[str, Any]) -> None:
    before = logits(tiny_model.model, TOKENS)
    with pytest.raises(AdapterError):
        restore_adapter(tiny_model.model, config, {})
    assert torch.equal(logits(tiny_model.model, TOKENS), before)
    assert attached(tiny_model.model) == {}


def test_generation_by_rows_gives_each_prompt_the_answer_of_its_own_memory(tiny_model: BaseModel) -> None:
    model = tiny_model.model
    prompts = [[1, 40, 50], [1, 60], [1, 40, 50, 70, 80], [1, 90, 91], [1, 30]]
    names = ["first", "second", None, "first", "second"]
    adapters = {}
    for index, (name, kind) in enumerate((("first", "lora"), ("second", "gated-memory"))):
        adapters[name] = create_adapter(model, AdapterSettings(kind=kind, rank=4), index, name)
        disturb(adapters[name], 0.3)

    def answer(which: list[int], adapters: Any = None) -> list[list[int]]:
        return generate(
            model, [prompts[row] for row in which], max_new_tokens=6, end_ids=range(3, 90), adapters=adapters
        )

    alone = []
    for row, name in enumerate(names):
        activate(model, name)
        alone += answer([row])
    activate(model, None)
    together = answer(list(range(5)), names)
    assert together == alone
    assert len({len(each) for each in together}) > 1, "expected rows that end at different times"
