"""What a reader attends to is taken apart exactly, and a Gated Memory comes near it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any, Literal

import pytest
import torch
from tiny_models import ARCHITECTURES, tiny

from lift.adapters.adapter import attached
from lift.adapters.attach import create_adapter
from lift.adapters.attention_sites import attention_sites
from lift.adapters.gated_memory import merge_attention
from lift.adapters.gated_memory_adapter import GatedMemoryAdapter
from lift.errors import AdapterError
from lift.models.base_model import BaseModel
from lift.packing.log_sum_exp import attention_with_log_sum
from lift.recipes.recipe import AdapterSettings, AttentionSettings
from lift.training.attention_distillation import direction_and_size_loss, distill_attention, hard_example_mean
from lift.training.attention_reading import AttentionReading, Layout, lay_out, read_attention

TEXT = (
    "The lighthouse of Skerry Point was built in 1844 by Alan Reid. Its lamp burned whale oil until 1871. "
    "The keeper, Mary Gunn, wrote a diary of every storm. In 1902 the tower was struck by lightning twice. "
    "A new lens came from Paris by ship and was carried up the stairs in nineteen pieces. "
)
HEAD = [1, 5]
DOCUMENT = [40, 50, 60, 30, 5, 17, 33, 8, 21, 9, 44, 12, 27]
GATES: list[Literal["query", "exact"]] = ["query", "exact"]


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Threads take longer to start than matrices of this size to multiply."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def reader(tiny_tokenizer: Any) -> BaseModel:
    """A base model of one layer that attends to few tokens at a time, unlike a flat one whose m* is a constant."""
    model = tiny("llama", vocab_size=259, num_hidden_layers=1, head_dim=16, max_position_embeddings=2048)
    return BaseModel(model=model, tokenizer=tiny_tokenizer, id="tiny", fingerprint="0" * 64)


def fitted_errors(
    base: BaseModel, gate: Literal["query", "exact"], settings: AttentionSettings, **changes: Any
) -> list[float]:
    adapter = gated(base.model, gate, **changes)
    fits = list(distill_attention(base, adapter, 2 * TEXT, settings))
    assert [fit.epoch for fit in fits] == list(range(settings.epochs + 1))
    return [fit.error for fit in fits]


def gated(model: Any, gate: Literal["query", "exact"], seed: int = 0, **changes: Any) -> GatedMemoryAdapter:
    adapter = create_adapter(model, AdapterSettings(kind="gated-memory", gate=gate, **changes), seed)
    assert isinstance(adapter, GatedMemoryAdapter)
    return adapter


@contextlib.contextmanager
def watching_heads(model: Any) -> Iterator[list[torch.Tensor]]:
    """The heads of each layer as the model itself computes them, in the order of its layers. [T, H, d] each"""
    seen: list[torch.Tensor] = []
    handles = [
        site.output_projection.register_forward_pre_hook(
            lambda _module, args, site=site: seen.append(args[0][0].view(-1, site.heads, site.head_dim))
        )
        for site in attention_sites(model)
    ]
    yield seen
    for handle in handles:
        handle.remove()


def whole(document: list[int]) -> Layout:
    return lay_out(len(document), 2 * len(document))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_the_parts_make_up_what_the_model_attends_to(architecture: str, dtype: torch.dtype) -> None:
    # transformers takes the softmax of a soft cap, and the norms of Gemma, in float32 whatever the type of the model
    tolerance = 1e-4 if dtype == torch.float32 else 1e-5 if architecture.startswith("gemma") else 1e-8
    model = tiny(architecture).to(dtype)
    readings = read_attention(model, HEAD, DOCUMENT, whole(DOCUMENT))
    with watching_heads(model) as seen, torch.no_grad():
        model(torch.tensor([[*HEAD, *DOCUMENT, *DOCUMENT]]), use_cache=False)
    assert len(readings) == len(seen) == 2
    for reading, heads in zip(readings, seen, strict=True):
        torch.testing.assert_close(reading.full, heads[-len(DOCUMENT) :], atol=tolerance, rtol=tolerance)


def test_each_part_is_the_attention_over_its_own_keys() -> None:
    model = tiny("llama").double()
    (first, _) = read_attention(model, HEAD, DOCUMENT, whole(DOCUMENT))
    ids = torch.tensor([[*HEAD, *DOCUMENT, *DOCUMENT]])
    start, end = len(HEAD), len(HEAD) + len(DOCUMENT)
    causal = torch.ones(ids.shape[1], ids.shape[1], dtype=torch.bool).tril()
    outside, inside = causal.clone(), causal.clone()
    outside[end:, :start] = outside[end:, end:] = False
    inside[end:, start:end] = False
    for mask, part in ((outside, first.recalled), (inside, first.attended)):
        with watching_heads(model) as seen, torch.no_grad():
            model(ids, attention_mask=mask[None, None], use_cache=False)
        torch.testing.assert_close(part, seen[0][end:], atol=1e-8, rtol=1e-8)


def test_a_sliding_layer_sees_what_its_mask_allows() -> None:
    sliding, full = read_attention(tiny("qwen2"), HEAD, DOCUMENT, whole(DOCUMENT))
    assert sliding.sees_document.tolist() == [True] * 3 + [False] * 10  # windows of 4 tokens
    assert full.sees_document.all()
    assert torch.isfinite(sliding.recalled).all()
    assert torch.equal(sliding.full[3:], sliding.attended[3:])


def test_pieces_are_the_whole_where_positions_do_not_matter() -> None:
    generator = torch.Generator().manual_seed(0)
    query, key, value = (torch.randn(1, 4, 12, 8, generator=generator, dtype=torch.float64) for _ in range(3))
    expected, log_sum = attention_with_log_sum(query, key, value, None, 0.4, softcap=2.0)
    pieces = [
        attention_with_log_sum(query, keys, values, None, 0.4, softcap=2.0)
        for keys, values in zip(key.split([5, 4, 3], 2), value.split([5, 4, 3], 2), strict=True)
    ]
    merged, merged_sum = merge_attention([output for output, _ in pieces], [log for _, log in pieces])
    torch.testing.assert_close(merged, expected, atol=1e-10, rtol=1e-10)
    torch.testing.assert_close(merged_sum, log_sum, atol=1e-10, rtol=1e-10)


def test_a_piece_twice_doubles_its_share_and_a_repeated_piece_counts_once() -> None:
    model = tiny("llama").double()
    size = len(DOCUMENT)
    passages = ((0, size),)
    (once, _) = read_attention(model, HEAD, DOCUMENT, Layout(((0, size),), 0, passages))
    (twice, _) = read_attention(model, HEAD, DOCUMENT, Layout(((0, size), (0, size)), 0, passages))
    (same, _) = read_attention(model, HEAD, DOCUMENT, Layout(((0, size), (0, size)), size, passages))
    torch.testing.assert_close(twice.recalled, once.recalled, atol=1e-8, rtol=1e-8)
    doubled = once.log_sum_outside + torch.tensor(2.0).double().log()
    torch.testing.assert_close(twice.log_sum_outside, doubled, atol=1e-8, rtol=1e-8)
    torch.testing.assert_close(same.log_sum_outside, once.log_sum_outside, atol=1e-8, rtol=1e-8)
    torch.testing.assert_close(same.full, once.full, atol=1e-8, rtol=1e-8)


@pytest.mark.parametrize("limit", [2, 3, 7, 64, 100, 1000])
@pytest.mark.parametrize("size", [1, 2, 5, 63, 64, 300, 777])
def test_a_layout_reads_every_token_and_attends_to_each_once(size: int, limit: int) -> None:
    layout = lay_out(size, limit)
    lengths = {end - start for start, end in layout.pieces}
    assert len(lengths) == 1
    assert 1 <= layout.window_tokens <= size
    assert lengths.pop() + layout.window_tokens <= max(limit, 2)
    last_start, last_end = layout.pieces[-1]
    attended = [token for start, end in layout.pieces[:-1] for token in range(start, end)]
    assert attended + list(range(last_start + layout.repeated_tokens, last_end)) == list(range(size))
    spots = [token for start, end in layout.passages for token in range(start, end)]
    assert spots == sorted(set(spots))
    assert set(spots) <= set(range(size))
    if 2 * size <= limit:
        assert (layout.pieces, layout.window_tokens) == (((0, size),), size)


@pytest.mark.parametrize("gate", GATES)
def test_fitting_halves_the_error_on_queries_held_out(reader: BaseModel, gate: Literal["query", "exact"]) -> None:
    settings = AttentionSettings(epochs=40, learning_rate=3e-2, batch_queries=64)
    errors = fitted_errors(reader, gate, settings)
    assert errors[-1] < errors[0] / 2


@pytest.mark.parametrize("gate", GATES)
def test_only_the_adapter_changes_and_by_the_seed_alone(tiny_model: BaseModel, gate: Literal["query", "exact"]) -> None:
    model = tiny_model.model
    before = {key: value.clone() for key, value in model.state_dict().items()}
    settings = AttentionSettings(epochs=2, batch_queries=64)
    runs = []
    for _ in range(2):
        adapter = gated(model, gate, seed=3)
        start = adapter.trained_state()
        adapter.set_trainable(True)
        torch.rand(1)  # the global random state has no part in it
        errors = [fit.error for fit in distill_attention(tiny_model, adapter, TEXT, settings)]
        runs.append((errors, adapter.trained_state()))
        assert adapter.rows is None
        assert all(parameter.requires_grad and parameter.grad is None for parameter in adapter.parameters())
        assert any(not torch.equal(value, start[key]) for key, value in adapter.trained_state().items())
        adapter.detach()
    assert runs[0][0] == runs[1][0]
    assert all(torch.equal(value, runs[1][1][key]) for key, value in runs[0][1].items())
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())
    assert (attached(model), model.config._attn_implementation) == ({}, "sdpa")


@pytest.mark.parametrize("gate", GATES)
def test_a_document_of_three_windows_is_read_in_pieces(reader: BaseModel, gate: Literal["query", "exact"]) -> None:
    settings = AttentionSettings(epochs=20, learning_rate=3e-2, batch_queries=64, window_tokens=2 * len(TEXT) // 3)
    assert len(lay_out(2 * len(TEXT), settings.window_tokens).pieces) > 3
    errors = fitted_errors(reader, gate, settings)
    assert errors[-1] < 0.85 * errors[0]


@pytest.mark.parametrize("gate", GATES)
@pytest.mark.parametrize("text", ["", "A", "It", "Eight or nine"])
def test_short_documents_are_fitted_or_left_out(
    tiny_model: BaseModel, text: str, gate: Literal["query", "exact"]
) -> None:
    adapter = gated(tiny_model.model, gate)
    fits = list(distill_attention(tiny_model, adapter, text, AttentionSettings(epochs=2)))
    assert len(fits) == (3 if text else 0)
    assert all(0 <= fit.error < 10 for fit in fits)
    assert all(torch.isfinite(value).all() for value in adapter.trained_state().values())


@pytest.mark.parametrize("start", ["identity", "published"])
@pytest.mark.parametrize("gate", GATES)
def test_either_start_is_fitted_and_ends_with_kappa_one(
    reader: BaseModel, gate: Literal["query", "exact"], start: Literal["identity", "published"]
) -> None:
    adapter = gated(reader.model, gate, start=start)
    settings = AttentionSettings(epochs=8, learning_rate=3e-2, batch_queries=64)
    errors = [fit.error for fit in distill_attention(reader, adapter, TEXT, settings)]
    assert errors[-1] < errors[0]
    kappas = [values for key, values in adapter.trained_state().items() if key.endswith("displacement")]
    assert all(values.eq(1).all() for values in kappas)
    assert bool(kappas) == (start == "identity")


def test_layers_that_are_not_chosen_are_left_out(tiny_tokenizer: Any) -> None:
    model = tiny("qwen2", vocab_size=259, max_position_embeddings=2048)
    base = BaseModel(model=model, tokenizer=tiny_tokenizer, id="tiny", fingerprint="0" * 64)
    adapter = gated(model, "query", layers=(1,))
    assert len(list(distill_attention(base, adapter, TEXT, AttentionSettings(epochs=1)))) == 2
    assert {key.split(".gated_memory.")[0] for key in adapter.trained_state()} == {"model.layers.1.self_attn"}


def test_where_no_layer_sees_the_document_nothing_is_fitted(reader: BaseModel, monkeypatch: pytest.MonkeyPatch) -> None:
    def hide(size: int, _limit: int) -> Layout:
        return Layout(((0, size),), size, ((0, size),))

    monkeypatch.setattr("lift.training.attention_distillation.lay_out", hide)
    adapter = gated(reader.model, "exact")
    before = adapter.trained_state()
    assert list(distill_attention(reader, adapter, TEXT, AttentionSettings(epochs=2))) == []
    assert all(torch.equal(value, before[key]) for key, value in adapter.trained_state().items())


def test_a_window_without_room_is_refused(tiny_model: BaseModel) -> None:
    adapter = gated(tiny_model.model, "query")
    with pytest.raises(AdapterError, match="window_tokens"):
        next(iter(distill_attention(tiny_model, adapter, TEXT, AttentionSettings(epochs=1, window_tokens=3))))


def test_a_new_memory_has_a_gradient_no_larger_than_that_of_a_short_one() -> None:
    target = torch.tensor([[0.3, -0.4]])
    gradients = []
    for value in (torch.zeros(1, 2), -0.01 * target):
        fitted = value.clone().requires_grad_()
        direction_and_size_loss(fitted, target, 1.0).sum().backward()
        assert fitted.grad is not None
        gradients.append(fitted.grad.norm())
    assert torch.isfinite(gradients[0])
    assert gradients[0] < 1.1 * gradients[1]
    torch.testing.assert_close(direction_and_size_loss(target, target, 1.0), torch.zeros(1))
    torch.testing.assert_close(direction_and_size_loss(-target, target, 0.7), torch.tensor([1.0 + 2.0]))


def test_hard_examples_count_for_more() -> None:
    losses = torch.tensor([[1.0, 1.0], [1.0, 3.0]], requires_grad=True)
    hard_example_mean(losses).backward()
    assert losses.grad is not None
    torch.testing.assert_close(losses.grad[:, 0], torch.tensor([0.25, 0.25]))
    assert losses.grad[1, 1] > 5 * losses.grad[0, 1]


def test_a_reading_at_some_tokens_is_that_part_of_it() -> None:
    reading = read_attention(tiny("gemma2"), HEAD, DOCUMENT, whole(DOCUMENT))[1]
    rows = torch.tensor([4, 0])
    part = reading.at(rows, torch.device("cpu"))
    assert isinstance(part, AttentionReading)
    torch.testing.assert_close(part.full, reading.full[rows])
