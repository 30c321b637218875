"""What is trained in which epoch, and that the loop trains exactly that."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from segment_settings import with_segments

from lift.absorbing import planning
from lift.adapters.attach import create_adapter
from lift.answering import answerer as answering
from lift.answering.answerer import Answerer
from lift.documents.document import Document, join_documents
from lift.documents.sentences import split_sentences
from lift.errors import UsageError
from lift.models.base_model import BaseModel
from lift.packing.prompts import ELLIPSIS, IGNORED, RECITE, Example, citation_example, question_example
from lift.packing.segments import split_segments
from lift.packing.trie import pack
from lift.recipes.recipe import Recipe, load_recipe
from lift.tasks.task import Task
from lift.training import batch_sampler
from lift.training.batch_sampler import BatchSampler
from lift.training.learning_rate_schedule import learning_rate_multiplier
from lift.training.objective import Objective
from lift.training.pace import Pace
from lift.training.training_loop import StepRecord, train

TEXT = "Ada Quill founded the museum. It owns 42 lenses. The tower burned in 1907. Merrow lies in the north."
ANSWERS = ["Ada Quill", "42", "1907", "the north"]
TASKS = [
    Task(f"{word} {index}?", answer, (index,), "test", weight=1.0 + index, held_out=word == "Held")
    for index, answer in enumerate(ANSWERS)
    for word in ("What", "Which", "Held")
]
BETWEEN_TOKENS = len(ELLIPSIS) + len(RECITE)  # the tiny tokenizer has one token a byte
SEGMENTS = with_segments(length_tokens=32, step_tokens=12)
CONTEXTUAL = [*SEGMENTS, "tasks.weight=0", "context.segment_tokens=40"]


def recipe(*overrides: str) -> Recipe:
    plain = ["training.epochs=3", "adapter.rank=4", "training.batch_tokens=160", "tasks.cited_share=0"]
    return load_recipe("default", [*plain, *overrides])


def sampler(
    base: BaseModel, chosen: Recipe, document: Document | None = None, *, window_tokens: int = 0, start: int = 0
) -> BatchSampler:
    document = document or Document("Merrow", TEXT, "test")
    sentences = split_sentences(document.text)
    tasks = TASKS if document.text == TEXT else []
    window_tokens = window_tokens or base.window_tokens
    return BatchSampler(base.tokenizer, window_tokens, document, sentences, tasks, chosen, start)


def run(base: BaseModel, chosen: Recipe, **options: Any) -> list[StepRecord]:
    adapter = create_adapter(base.model, chosen.adapter, chosen.training.seed)
    objective = Objective(base.model, adapter, chosen.objective)
    try:
        return list(train(adapter, objective, sampler(base, chosen), chosen.training, **options))
    finally:
        adapter.detach()


def shown(base: BaseModel, ids: Sequence[int]) -> str:
    text: str = base.tokenizer.decode(list(ids))
    return text


def labelled(example: Example) -> list[int]:
    return [label for label in example.labels if label != IGNORED]


def test_two_stages_train_segments_alone_first(tiny_model: BaseModel) -> None:
    plan = sampler(tiny_model, recipe(*SEGMENTS, "training.segment_epochs=2"))
    assert plan.epochs == 5
    first, later = plan.groups(0), plan.groups(2)
    assert all(IGNORED not in group[0].labels[1:] for group in first)
    assert len(later) > len(first)
    assert later[: len(first)] == first


def test_contexts_are_drawn_again_each_epoch_and_hold_the_evidence(tiny_model: BaseModel) -> None:
    plan = sampler(tiny_model, recipe("context.share=1.0", "context.sentences=2"))
    texts = [[shown(tiny_model, group[0].ids) for group in plan.groups(epoch)] for epoch in range(3)]
    assert texts[0] != texts[1] or texts[1] != texts[2]
    assert plan.groups(1) == plan.groups(1)
    for example in (example for group in plan.groups(0) if len(group) > 1 for example in group):
        answer = shown(tiny_model, labelled(example)[:-1])
        assert shown(tiny_model, example.ids).count(answer) == 2  # in the context, and as the answer


def test_a_share_of_the_tasks_is_asked_for_its_sentence_too(tiny_model: BaseModel) -> None:
    tokenizer = tiny_model.tokenizer
    sentences = [sentence.text for sentence in split_sentences(TEXT)]
    wanted = {
        tuple(citation_example(tokenizer, task.question, sentences[task.evidence[0]]).ids): task
        for task in TASKS
        if not task.held_out
    }
    made = sampler(tiny_model, recipe("tasks.cited_share=0.5", "context.share=0"))
    seen = []
    for epoch in range(20):
        groups = made.groups(epoch)
        cited = [group for group in groups if len(group) == 2]
        assert all(tuple(group[1].ids) in wanted and group[1].task is None for group in cited)
        # the question's own example stands before its sentence, so that both share what they begin with
        assert all(wanted[tuple(group[1].ids)].question in tokenizer.decode(group[0].ids) for group in cited)
        seen.append(len(cited))
        assert [len(update.batches) for update in made.optimizer_steps(epoch)] and len(groups) == len(wanted)
    assert 0.3 < sum(seen) / (20 * len(wanted)) < 0.7
    assert len(set(seen)) > 1, "expected the share to be drawn anew each epoch"
    everything = sampler(tiny_model, recipe("tasks.cited_share=1", "context.share=0"))
    assert {tuple(group[1].ids) for group in everything.groups(0)} == set(wanted)


def test_held_out_tasks_are_never_trained(tiny_model: BaseModel) -> None:
    for overrides in (["context.share=1.0"], ["context.tasks=truncated"]):
        plan = sampler(tiny_model, recipe(*overrides))
        groups = [group for epoch in range(plan.epochs) for group in plan.groups(epoch)]
        texts = [shown(tiny_model, example.ids) for group in groups for example in group]
        assert texts
        assert not any("Held" in text for text in texts)


def test_a_segment_stands_behind_pieces_of_head_and_tail_drawn_anew_each_epoch(tiny_model: BaseModel) -> None:
    plan = sampler(tiny_model, recipe(*CONTEXTUAL))
    whole = f"Merrow\n{TEXT}"
    windows = [whole[each.start : each.end] for each in split_segments(len(whole), 32, 12)]
    contexts = []
    for epoch in range(2):
        examples = [example for (example,) in plan.groups(epoch)]
        assert [shown(tiny_model, labelled(example)) for example in examples] == windows
        for example, window in zip(examples, windows, strict=True):
            text = shown(tiny_model, example.ids)
            assert text.endswith(RECITE + window)
            assert example.labels[-len(window) :] == example.ids[-len(window) :]
            assert set(example.labels[: -len(window)]) == {IGNORED}
            before = text.removesuffix(RECITE + window)
            assert len(before) == 40 + len(ELLIPSIS)
            assert any(
                before[:cut] in whole[:40]
                and before[cut:] in [ELLIPSIS + whole[-40:][n:][: 40 - cut] for n in range(41)]
                for cut in range(40)
            )
            contexts.append((epoch, before))
    first, second = ([before for each, before in contexts if each == epoch] for epoch in range(2))
    assert first != second
    assert len(set(first)) > 1
    assert plan.groups(0) == plan.groups(0)


def test_the_context_of_a_segment_shrinks_to_what_the_window_leaves(tiny_model: BaseModel) -> None:
    wide = recipe(*CONTEXTUAL)
    narrow = recipe(*CONTEXTUAL, "context.window_tokens=100")
    for plan in (sampler(tiny_model, wide, window_tokens=100), sampler(tiny_model, narrow)):
        lengths = [(len(example.ids), len(labelled(example))) for (example,) in plan.groups(0)]
        assert all(length == min(100, labels + 40 + BETWEEN_TOKENS) for length, labels in lengths)
        assert any(length == 100 for length, _ in lengths)
    bare = sampler(tiny_model, wide, window_tokens=BETWEEN_TOKENS + 20)
    assert all(IGNORED not in example.labels[1:] for (example,) in bare.groups(0) if len(example.ids) == 32)


@pytest.mark.parametrize(
    ("title", "text"),
    [("T", ""), ("", "xy"), ("A", "short."), ("T", "x" * 38), ("T", "x" * 39)],
    ids=[
        "of a title alone",
        "of two tokens without a title",
        "shorter than the context",
        "exactly the context",
        "one token more",
    ],
)
def test_a_document_of_any_length_can_be_its_own_context(tiny_model: BaseModel, title: str, text: str) -> None:
    plan = sampler(tiny_model, recipe(*CONTEXTUAL, "segments.length_tokens=64"), Document(title, text, "test"))
    length = len(f"{title}\n{text}" if title else text)
    for epoch in range(5):
        ((example,),) = plan.groups(epoch)
        assert len(labelled(example)) == length
        assert len(example.ids) == length + BETWEEN_TOKENS + min(length, 40)
        pack([example])


def test_a_truncated_prompt_is_the_one_that_is_asked_with_later(
    tiny_model: BaseModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    chosen = recipe("context.tasks=truncated", "context.share=0", "context.window_tokens=256")
    document = Document("Merrow", TEXT, "test")
    long = Task("What did " + "the keeper of the old tower " * 3 + "find?", "42", (1,), "test")
    tasks = [*TASKS, long]
    plan = BatchSampler(tiny_model.tokenizer, 1024, document, split_sentences(TEXT), tasks, chosen)
    (group,) = plan.groups(0)
    trained = [task for task in tasks if not task.held_out]
    prompts: list[list[int]] = []

    def caught(_model: Any, asked: list[list[int]], **_: Any) -> list[list[int]]:
        prompts.extend(asked)
        return [[] for _ in asked]

    monkeypatch.setattr(answering, "generate", caught)
    answerer = Answerer.of(tiny_model, None, document, split_sentences(TEXT), truncated_tokens=256)
    answers = answerer.ask_many([task.question for task in trained], "truncated")
    assert [answer.truncated for answer in answers] == [False] * (len(trained) - 1) + [True]
    for example, prompt, task in zip(group, prompts, trained, strict=True):
        assert list(example.ids[: -len(labelled(example))]) == list(prompt)
        assert task.question in shown(tiny_model, prompt)
    cut = shown(tiny_model, prompts[-1])
    head, tail = cut.split("\n\n")[0].split("user\n")[1].split(ELLIPSIS)
    assert TEXT.startswith(head)
    assert TEXT.endswith(tail)
    assert head
    assert tail
    assert not group[-1].reads_evidence or "42 lenses" in cut
    assert group[0].reads_evidence


def test_a_window_too_small_for_a_question_is_refused(tiny_model: BaseModel) -> None:
    plan = sampler(tiny_model, recipe("context.tasks=truncated", "context.window_tokens=72"))
    with pytest.raises(UsageError, match=r"raise context\.window_tokens"):
        plan.groups(0)


def test_gathering_makes_one_update_an_epoch_with_the_gradient_of_one_big_batch(
    tiny_model: BaseModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    gradients: list[list[torch.Tensor]] = []
    clip = torch.nn.utils.clip_grad_norm_

    def recorded(parameters: Any, limit: float) -> Any:
        gradients.append([parameter.grad.clone() for parameter in parameters])
        return clip(parameters, limit)

    monkeypatch.setattr(torch.nn.utils, "clip_grad_norm_", recorded)
    cut = recipe("training.full_batch=true", "context.share=1.0", *SEGMENTS)
    assert len(next(sampler(tiny_model, cut).optimizer_steps(0)).batches) > 2
    whole = recipe("training.full_batch=true", "context.share=1.0", *SEGMENTS, "training.batch_tokens=100000")
    assert len(next(sampler(tiny_model, whole).optimizer_steps(0)).batches) == 1
    losses = [[step.loss for step in run(tiny_model, chosen)] for chosen in (cut, whole)]
    assert len(losses[0]) == len(losses[1]) == 3
    assert losses[0][0] == pytest.approx(losses[1][0], abs=1e-5)
    assert any(gradient.abs().max() > 1e-3 for gradient in gradients[0])
    for one, other in zip(gradients[0], gradients[3], strict=True):
        assert torch.allclose(one, other, atol=1e-5)


def test_the_second_stage_goes_on_with_the_moments_of_the_first(
    tiny_model: BaseModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    update = torch.optim.AdamW.step
    seen: list[tuple[int, set[float]]] = []

    def watched(self: Any, *arguments: Any, **options: Any) -> Any:
        result = update(self, *arguments, **options)
        seen.append((id(self), {state["step"].item() for state in self.state.values()}))
        return result

    monkeypatch.setattr(torch.optim.AdamW, "step", watched)
    steps = run(tiny_model, recipe(*SEGMENTS, "training.segment_epochs=1", "training.epochs=1"))
    assert {step.epoch for step in steps} == {0, 1}
    assert len({optimizer for optimizer, _ in seen}) == 1
    assert [counts for _, counts in seen] == [{float(number)} for number in range(1, len(steps) + 1)]


def test_a_limit_of_tokens_ends_the_training_and_the_rate_follows_it(tiny_model: BaseModel) -> None:
    limit = 2000
    chosen = recipe("training.epochs=1000", f"training.max_tokens={limit}", "training.schedule=linear")
    steps = run(tiny_model, chosen)
    before = [sum(step.tokens for step in steps[:number]) for number in range(len(steps) + 1)]
    assert before[-2] < limit <= before[-1]
    for step, tokens in zip(steps, before, strict=False):
        share = learning_rate_multiplier(tokens / limit, "linear", chosen.training.warmup_share)
        assert step.learning_rate == pytest.approx(share * chosen.training.learning_rate)


@pytest.mark.parametrize("seconds", [0.0, -1.0])
def test_no_time_left_trains_one_step(tiny_model: BaseModel, seconds: float) -> None:
    assert len(run(tiny_model, recipe(), pace=Pace.within(seconds))) == 1


def test_a_limit_leaves_the_weightiest_tasks_of_each_sentence(tiny_model: BaseModel) -> None:
    plan = sampler(tiny_model, recipe("context.share=0"))
    every = closed_book([batch for update in plan.optimizer_steps(0) for batch in update.batches])
    assert plan.most_per_sentence == plan.tasks_per_sentence > 1
    plan.limit_tasks(1)
    limited = closed_book([batch for update in plan.optimizer_steps(1) for batch in update.batches])
    assert limited == set(plan.tasks_within(1)) < every
    plan.limit_tasks(plan.most_per_sentence)
    assert closed_book([batch for update in plan.optimizer_steps(2) for batch in update.batches]) == every
    assert plan.widest_limit == plan.most_per_sentence


def test_a_limit_counts_in_the_middle_of_an_epoch(tiny_model: BaseModel) -> None:
    plan = sampler(tiny_model, recipe("context.share=0", "training.batch_tokens=64"))
    optimizer_steps = plan.optimizer_steps(0)
    first = next(optimizer_steps)
    plan.limit_tasks(1)
    rest = list(optimizer_steps)
    # one example was drawn already, to see whether it fits
    later = [example.task for update in rest[1:] for batch in update.batches for example in batch]
    assert set(later) <= set(plan.tasks_within(1))
    assert first.progress == 0
    assert all(0 < update.progress < 1 for update in rest)


def test_each_part_of_a_joined_document_stands_under_its_own_title(tiny_model: BaseModel) -> None:
    first, second = Document("Merrow", "a" * 100, "a.txt"), Document("Visitors", "b" * 50, "b.txt")
    joined = join_documents([first, second], "Both")
    chosen = recipe(*SEGMENTS, "tasks.weight=0")
    segments = [shown(tiny_model, example.ids) for (example,) in sampler(tiny_model, chosen, joined).groups(0)]
    assert [text.split("\n")[0] for text in segments if "\n" in text] == ["Merrow", "Visitors"]
    assert not any("a" * 3 in text and "b" * 3 in text for text in segments)
    alone = [
        [shown(tiny_model, example.ids) for (example,) in sampler(tiny_model, chosen, each).groups(0)]
        for each in (first, second)
    ]
    assert segments == alone[0] + alone[1]
    later = sampler(tiny_model, chosen, joined, start=joined.parts[1].start)
    assert [shown(tiny_model, example.ids) for (example,) in later.groups(0)] == alone[1]


@pytest.mark.parametrize("overrides", [("context.share=0.5",), (*SEGMENTS, "context.segment_tokens=40")])
def test_what_is_not_drawn_anew_comes_again_in_every_epoch(tiny_model: BaseModel, overrides: Sequence[str]) -> None:
    plan = sampler(tiny_model, recipe(*overrides))
    epochs = [[example for group in plan.groups(epoch) for example in group] for epoch in (0, 1, 2)]
    kept = [{example for example in epoch if not example.drawn_anew} for epoch in epochs]
    anew = [{example for example in epoch if example.drawn_anew} for epoch in epochs]
    assert kept[0] == kept[1] == kept[2] != set()
    assert anew[0] != anew[1] != anew[2]


def test_tokens_of_an_epoch_are_made_when_their_batch_is_due(
    tiny_model: BaseModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[str] = []

    def counted(tokenizer: Any, question: str, *rest: Any, **options: Any) -> Example:
        made.append(question)
        return question_example(tokenizer, question, *rest, **options)

    monkeypatch.setattr(batch_sampler, "question_example", counted)
    plan = sampler(tiny_model, recipe("context.share=1.0", "context.sentences=2"))
    assert not made
    given_out = 0
    for update in plan.optimizer_steps(0):
        assert math.isclose(update.progress, given_out / 16)  # 8 tasks, each of them again behind a context
        given_out += sum(map(len, update.batches))
        assert given_out <= len(made) <= given_out + 5  # a context of 4, to see whether it fits, and one more
    assert given_out == len(made) == 16


@pytest.mark.parametrize("sampled", [4, 1000])
def test_the_tokens_of_a_long_epoch_are_estimated_from_its_first_batches(
    tiny_model: BaseModel, monkeypatch: pytest.MonkeyPatch, sampled: int
) -> None:
    monkeypatch.setattr(planning, "SAMPLED_BATCHES", sampled)
    monkeypatch.setattr(planning, "CALIBRATION_TOKENS", 1)
    chosen = recipe("training.epochs=5", "context.share=0")
    tasks = [Task(f"What is {number:03d}?", "42", (1,), "test") for number in range(200)]
    plan = BatchSampler(
        tiny_model.tokenizer, 1024, Document("Merrow", TEXT, "test"), split_sentences(TEXT), tasks, chosen
    )
    exact = sum(pack(batch).tokens for update in plan.optimizer_steps(0) for batch in update.batches)
    adapter = create_adapter(tiny_model.model, chosen.adapter, 0)
    found = planning.calibrate(tiny_model, adapter, plan, chosen)
    adapter.detach()
    assert found.epoch_tokens == (exact if sampled == 1000 else pytest.approx(exact, rel=0.1))
    assert found.total_tokens == 5 * found.epoch_tokens


def closed_book(batches: list[list[Example]]) -> set[int | None]:
    return {example.task for batch in batches for example in batch if not example.reads_evidence}


def test_a_task_that_is_known_pauses_closed_book_and_behind_contexts(tiny_model: BaseModel) -> None:
    plan = sampler(tiny_model, recipe("context.share=1.0", "training.max_skip_epochs=4", "training.epochs=8"))
    first = [batch for update in plan.optimizer_steps(0) for batch in update.batches]
    known = min(task for task in closed_book(first) if task is not None)
    for epoch in range(8):
        batches = [batch for update in plan.optimizer_steps(epoch) for batch in update.batches]
        shown = {example.task for batch in batches for example in batch}
        assert (known in shown) == (epoch in (0, 2, 6))
        assert (known in closed_book(batches)) == (known in shown)
        assert len(shown) >= 7
        for batch in batches:
            plan.record(epoch, batch, [example.task == known for example in batch])


def test_an_answer_that_stands_in_the_prompt_does_not_make_a_task_known(tiny_model: BaseModel) -> None:
    plan = sampler(tiny_model, recipe("context.share=1.0", "training.max_skip_epochs=4", "training.epochs=8"))
    batches = [batch for update in plan.optimizer_steps(0) for batch in update.batches]
    for batch in batches:
        plan.record(0, batch, [example.reads_evidence for example in batch])
    again = [batch for update in plan.optimizer_steps(1) for batch in update.batches]
    assert closed_book(again) == closed_book(batches)


def test_an_epoch_in_which_all_is_known_is_empty(tiny_model: BaseModel) -> None:
    plan = sampler(tiny_model, recipe("training.max_skip_epochs=4", "training.epochs=8"))
    for update in plan.optimizer_steps(0):
        for batch in update.batches:
            plan.record(0, batch, [True] * len(batch))
    assert list(plan.optimizer_steps(1)) == []
    assert list(plan.optimizer_steps(2)) != []
