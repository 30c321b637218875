"""Context distillation and the gates' regulariser, on a tiny model."""

import pytest
import torch

from lift.adapters.attach import create_adapter
from lift.models.base_model import BaseModel
from lift.packing.forward import labelled_logits
from lift.packing.prompts import (
    Example,
    contextual_segment_example,
    invocation_of,
    preserved_example,
    question_example,
    segment_example,
)
from lift.packing.trie import pack
from lift.recipes.recipe import AdapterSettings, ObjectiveSettings
from lift.training.objective import TEACHER_TOP_K, Objective, Teacher


def examples(base: BaseModel) -> list[Example]:
    tokenizer = base.tokenizer
    return [
        question_example(tokenizer, "When?", "1911", teacher_context="It opened in 1911."),
        segment_example([4, 5, 6, 7]),
        question_example(tokenizer, "Who?", "Ada", "Ada built it.", reads_evidence=True),
        question_example(tokenizer, "Where?", "Merrow", teacher_context="It stands in Merrow."),
    ]


def test_a_memory_that_is_distilled_teaches_answers_and_the_base_keeps_other_texts(tiny_model: BaseModel) -> None:
    model, tokenizer = tiny_model.model, tiny_model.tokenizer
    batch = pack([question_example(tokenizer, "When?", "1911"), preserved_example([5, 6, 7, 8], 0.5)])
    of_base = labelled_logits(model, batch)
    memory = create_adapter(
        model, AdapterSettings(activated=True), seed=0, name="memory", invocation=invocation_of(tokenizer)
    )
    for parameter in memory.parameters():
        parameter.data.add_(0.1)
    of_memory = labelled_logits(model, batch)
    student = create_adapter(model, AdapterSettings(rank=4), seed=1)
    student.set_trainable(True)
    objective = Objective(model, student, ObjectiveSettings(), taught_by=memory)
    wanted = torch.cat([of_memory[:5], of_base[5:]])  # "1911" and its end, three tokens of the piece
    expected = torch.nn.functional.kl_div(
        torch.log_softmax(of_base, -1), torch.log_softmax(wanted, -1), log_target=True, reduction="none"
    ).sum(-1)
    outcome = objective.outcome(batch)
    # the student is the base yet; K of the likeliest tokens and one bucket are a lower bound
    assert 0.5 * (expected * batch.weights).sum() < outcome.loss.item() <= 1.0001 * (expected * batch.weights).sum()
    assert student.rows is None
    assert memory.rows == ()
    outcome.loss.backward()
    assert all(parameter.grad is None for parameter in memory.parameters())
    agrees = bool((of_memory[:5].argmax(-1) == of_base[:5].argmax(-1)).all())
    assert outcome.greedy_correct.tolist() == [agrees, True]


@pytest.mark.parametrize("kind", ["lora", "pissa", "gated-memory"])
def test_the_teacher_is_the_base_model_that_reads_the_evidence(tiny_model: BaseModel, kind: str) -> None:
    batch = pack(examples(tiny_model))
    reader = question_example(tiny_model.tokenizer, "When?", "1911", "It opened in 1911.")
    expected = torch.log_softmax(labelled_logits(tiny_model.model, pack([reader])), -1).topk(TEACHER_TOP_K, dim=-1)
    adapter = create_adapter(tiny_model.model, AdapterSettings(kind=kind, rank=4), seed=0)
    for parameter in adapter.parameters():
        parameter.data.add_(0.1)
    log_probabilities, ids, taught = Teacher(tiny_model.model, adapter).targets(batch)
    count = len(reader.labels) - reader.labels.count(-100)
    torch.testing.assert_close(log_probabilities[:count], expected.values, atol=1e-4, rtol=1e-4)
    assert torch.equal(ids[:count], expected.indices)
    assert taught.tolist() == [True] * 5 + [False] * 3 + [False] * 4 + [True] * 7
    adapter.detach()


def test_distillation_alone_takes_no_loss_from_the_labels_of_what_is_taught(tiny_model: BaseModel) -> None:
    adapter = create_adapter(tiny_model.model, AdapterSettings(rank=4), seed=0)
    taught = question_example(tiny_model.tokenizer, "When?", "1911", teacher_context="When?")
    settings = ObjectiveSettings(cross_entropy=0.0, distillation=1.0)
    loss = Objective(tiny_model.model, adapter, settings).loss(pack([taught]))
    assert loss.item() > 0
    hard = Objective(tiny_model.model, adapter, ObjectiveSettings()).loss(pack([taught]))
    both = Objective(tiny_model.model, adapter, ObjectiveSettings(distillation=1.0)).loss(pack([taught]))
    assert both.item() == pytest.approx(loss.item() + hard.item(), rel=1e-5)
    segment = Objective(tiny_model.model, adapter, settings).loss(pack([segment_example([4, 5, 6, 7])]))
    plain = Objective(tiny_model.model, adapter, ObjectiveSettings()).loss(pack([segment_example([4, 5, 6, 7])]))
    assert segment.item() == pytest.approx(plain.item(), rel=1e-5)


def test_distillation_brings_the_memory_near_the_reader(tiny_model: BaseModel) -> None:
    adapter = create_adapter(tiny_model.model, AdapterSettings(rank=8), seed=0)
    adapter.set_trainable(True)
    objective = Objective(tiny_model.model, adapter, ObjectiveSettings(cross_entropy=0.0, distillation=1.0))
    batch = pack([example for example in examples(tiny_model) if example.teacher_ids])
    optimizer = torch.optim.Adam(adapter.parameters(), lr=0.005)
    losses = []
    for _ in range(60):
        loss = objective.loss(batch)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    assert losses[-1] < 0.3 * losses[0]


def test_the_gate_penalty_is_the_mean_gate_at_answers_and_can_be_kept_to_those_that_read(tiny_model: BaseModel) -> None:
    adapter = create_adapter(tiny_model.model, AdapterSettings(kind="gated-memory"), seed=0)
    batch, reading = pack(examples(tiny_model)), pack(examples(tiny_model)[2:3])
    losses = {
        on: [
            Objective(tiny_model.model, adapter, ObjectiveSettings(gate_penalty=1.0, gate_penalty_on=on)).loss(each)
            for each in (batch, reading)
        ]
        for on in ("all", "in-context")
    }
    plain = [Objective(tiny_model.model, adapter, ObjectiveSettings()).loss(each).item() for each in (batch, reading)]
    # with start "identity" every gate is sigmoid(-3) at first
    for on in ("all", "in-context"):
        for found, without in zip(losses[on], plain, strict=True):
            assert found.item() - without == pytest.approx(0.04743, abs=2e-4)
    closed = pack(examples(tiny_model)[:1])
    settings = ObjectiveSettings(gate_penalty=1.0, gate_penalty_on="in-context")
    without = Objective(tiny_model.model, adapter, ObjectiveSettings()).loss(closed)
    assert Objective(tiny_model.model, adapter, settings).loss(closed).item() == pytest.approx(without.item())


def test_a_contextual_segment_takes_loss_on_the_segment_alone(tiny_model: BaseModel) -> None:
    example = contextual_segment_example(tiny_model.tokenizer, [40, 41], [50, 51], [60, 61, 62])
    labelled = [label for label in example.labels if label != -100]
    assert labelled == [60, 61, 62]
    assert example.ids[:2] == (40, 41)
    assert example.ids[-3:] == (60, 61, 62)
    shown = tiny_model.tokenizer.decode(list(example.ids[2:-3]))
    assert "..." in shown
    assert "Recite" in shown
