"""Gated Memory: its mathematics to the last digit, its beginnings, what it reads, and that it can learn a document."""

from __future__ import annotations

import gc
import math
from typing import Any

import pytest
import torch
from tiny_models import ARCHITECTURES, tiny
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from lift.adapters.attach import create_adapter, restore_adapter
from lift.adapters.attention_sites import attention_sites
from lift.adapters.gated_memory import GatedMemory, attention_gate, merge_attention, mix, two_layers
from lift.adapters.gated_memory_adapter import GatedMemoryAdapter
from lift.adapters.row_assignment import rows
from lift.errors import AdapterError, LiftError
from lift.packing.log_sum_exp import attention_with_log_sum
from lift.recipes.recipe import AdapterSettings

TOKENS = torch.tensor([[1, 40, 50, 60, 30, 5, 17, 33, 8, 21]])  # [1, T]


def settings(**changes: Any) -> AdapterSettings:
    return AdapterSettings(kind="gated-memory", **changes)


def double(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def close(actual: torch.Tensor, expected: torch.Tensor) -> None:
    torch.testing.assert_close(actual, expected, atol=1e-10, rtol=0)


# ---- mathematics, in float64 to 1e-10


def test_attention_over_document_and_window_is_the_gated_sum_of_both() -> None:
    query, key, value = double(2, 4, 5, 8, seed=1), double(2, 2, 12, 8, seed=2), double(2, 2, 12, 8, seed=3)
    whole, log_sum = attention_with_log_sum(query, key, value, None, 8**-0.5)
    recalled, outside = attention_with_log_sum(query, key[:, :, :7], value[:, :, :7], None, 8**-0.5)
    attended, inside = attention_with_log_sum(query, key[:, :, 7:], value[:, :, 7:], None, 8**-0.5)
    close(mix(attended, recalled, attention_gate(outside, inside)), whole)
    close(torch.logaddexp(outside, inside), log_sum)


def test_attention_to_windows_of_a_document_merges_into_attention_to_all_of_it() -> None:
    query, key, value = double(1, 2, 3, 4, seed=1), double(1, 2, 11, 4, seed=2), double(1, 2, 11, 4, seed=3)
    pieces = [
        attention_with_log_sum(query, key[:, :, part], value[:, :, part], None, 0.5)
        for part in (slice(0, 2), slice(2, 3), slice(3, 11))
    ]
    merged, log_sum = merge_attention([output for output, _ in pieces], [piece for _, piece in pieces])
    whole, whole_log_sum = attention_with_log_sum(query, key, value, None, 0.5)
    close(merged, whole)
    close(log_sum, whole_log_sum)
    # a window of which nothing was attended to adds nothing
    nothing = torch.full_like(log_sum, -math.inf)
    close(merge_attention([merged, double(1, 2, 3, 4)], [log_sum, nothing])[0], whole)
    with pytest.raises(ValueError, match="at least one"):
        merge_attention([], [])


@pytest.mark.parametrize("softcap", [None, 1.5])
@pytest.mark.parametrize("kind", ["boolean", "additive"])
def test_attention_and_its_log_sum_are_the_formula_written_out(softcap: float | None, kind: str) -> None:
    query, key, value = double(1, 4, 3, 8, seed=1), double(1, 2, 6, 8, seed=2), double(1, 2, 6, 8, seed=3)
    allowed = torch.tensor([[1, 0, 1, 1, 0, 0], [1, 1, 1, 1, 1, 0], [0, 0, 0, 0, 0, 1]], dtype=torch.bool)[None, None]
    lowest = torch.finfo(torch.float32).min
    mask = allowed if kind == "boolean" else torch.zeros(allowed.shape).masked_fill(~allowed, lowest)
    output, log_sum = attention_with_log_sum(query, key, value, mask, 0.3, softcap)
    for head in range(4):
        for token in range(3):
            seen = [index for index in range(6) if allowed[0, 0, token, index]]
            logits = [0.3 * float(query[0, head, token] @ key[0, head // 2, index]) for index in seen]
            logits = [softcap * math.tanh(logit / softcap) if softcap else logit for logit in logits]
            total = sum(math.exp(logit) for logit in logits)
            expected = sum(
                math.exp(logit) / total * value[0, head // 2, index] for logit, index in zip(logits, seen, strict=True)
            )
            assert log_sum[0, head, token].item() == pytest.approx(math.log(total), abs=1e-10)
            close(output[0, head, token], torch.as_tensor(expected))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_query_that_attends_to_nothing_gives_finite_numbers_and_gradients(dtype: torch.dtype) -> None:
    query, key, value = (double(1, 1, 2, 4, seed=seed).to(dtype).requires_grad_() for seed in range(3))
    for mask in (torch.zeros(1, 1, 2, 2, dtype=torch.bool), torch.full((1, 1, 2, 2), torch.finfo(dtype).min)):
        output, log_sum = attention_with_log_sum(query, key, value, mask, 0.5)
        gate = attention_gate(torch.zeros_like(log_sum), log_sum)
        (output.sum() + gate.sum()).backward()
        assert torch.isfinite(output).all() and torch.isfinite(log_sum).all() and (gate == 1).all()
        assert query.grad is not None and torch.isfinite(query.grad).all()


def test_each_head_has_its_own_network() -> None:
    query, first, second = double(2, 3, 4, seed=1), double(3, 4, 5, seed=2), double(3, 5, 2, seed=3)
    result = two_layers(query, first, second)
    for head in range(3):
        hidden = query[:, head] @ first[head]
        close(result[:, head], (hidden * torch.sigmoid(hidden)) @ second[head])


# ---- one layer


def layer(gate: Any = "query", start: Any = "identity", heads: int = 3, head_dim: int = 9) -> GatedMemory:
    return GatedMemory(heads, head_dim, width=2.0, gate=gate, start=start, generator=torch.Generator().manual_seed(0))


def test_the_shapes_are_those_of_the_paper() -> None:
    shapes = {name: tuple(weight.shape) for name, weight in layer("exact").named_parameters()}
    assert shapes == {
        "read_in": (3, 9, 18),
        "read_out": (3, 18, 9),
        "gate_in": (3, 9, 3),
        "gate_out": (3, 3, 1),
        "gate_bias": (3,),
        "displacement": (3,),
    }
    assert set(dict(layer("query", "published").named_parameters())) == {"read_in", "read_out", "gate_in", "gate_out"}


def test_the_starts_are_as_intended_and_as_published() -> None:
    intended, published = layer(heads=50), layer(start="published", heads=50)
    query, attended = torch.randn(7, 50, 9), torch.randn(7, 50, 9)
    for memory in (intended, published):
        memory.requires_grad_(False)
    assert float(intended.read_in.abs().max()) == pytest.approx(9**-0.5, rel=0.01)
    assert float(published.read_in.abs().max()) == pytest.approx((9 * 18) ** -0.5, rel=0.01)
    assert float(published.read_out.abs().max()) == pytest.approx((9 * 18) ** -0.5, rel=0.01)
    assert float(published.gate_in.abs().max()) == pytest.approx((9 * 3) ** -0.5, rel=0.01)
    assert float(published.gate_out.abs().max()) == pytest.approx(3**-0.5, rel=0.05)
    mixed, gate = intended(query, attended)
    assert torch.equal(mixed, attended)
    torch.testing.assert_close(gate, torch.full_like(gate, 0.0474), atol=1e-4, rtol=0)
    mixed, gate = published(query, attended)
    assert 0.02 < float(gate.mean()) < 0.09
    assert 0.01 < float((mixed - attended).abs().mean() / attended.abs().mean()) < 0.1


def test_kappa_1_is_the_published_form() -> None:
    memory = layer()
    for parameter in memory.parameters():
        torch.nn.init.normal_(parameter)
    assert memory.displacement is not None
    torch.nn.init.ones_(memory.displacement)
    query, attended = torch.randn(2, 5, 3, 9), torch.randn(2, 5, 3, 9)
    mixed, gate = memory(query, attended)
    torch.testing.assert_close(mixed, (1 - gate[..., None]) * attended + gate[..., None] * memory.recall(query))
    # g = sigmoid(3 (u . SiLU(G q) - 1)), for one head written out
    hidden = query[0, 0, 1] @ memory.gate_in[1]
    logit = 3 * ((hidden * torch.sigmoid(hidden)) @ memory.gate_out[1, :, 0] - 1)
    torch.testing.assert_close(gate[0, 0, 1], torch.sigmoid(logit))


# ---- in a model


def captured(model: Any, ids: torch.Tensor, **options: Any) -> list[dict[str, Any]]:
    """What every attention of a forward pass is given: query and key after rotary positions, value, mask, scaling."""
    calls: list[dict[str, Any]] = []

    def attention(module: Any, query: Any, key: Any, value: Any, mask: Any, **others: Any) -> Any:
        calls.append({"query": query, "key": key, "value": value, "mask": mask, **others})
        return sdpa_attention_forward(module, query, key, value, mask, scaling=others["scaling"])

    AttentionInterface.register("lift_test_capture", attention)
    AttentionMaskInterface.register("lift_test_capture", sdpa_mask)
    before = model.config._attn_implementation
    model.set_attn_implementation("lift_test_capture")
    with torch.no_grad():
        model(ids, use_cache=False, **options)
    model.set_attn_implementation(before)
    return calls


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_the_query_that_is_read_is_the_attentions_own_before_rotary_positions(architecture: str) -> None:
    model = tiny(architecture)
    sites, read = attention_sites(model), {}
    for site in sites:
        site.query_projection.register_forward_hook(
            lambda _module, _args, output, site=site: read.__setitem__(site.layer, site.query(output))
        )
    calls = captured(model, TOKENS)
    assert [site.layer for site in sites] == [0, 1]
    for site, call in zip(sites, calls, strict=True):
        query = read[site.layer]  # [B, T, H, d]
        assert query.shape == (1, TOKENS.shape[1], site.heads, site.head_dim)
        # at position 0 the rotation is none
        torch.testing.assert_close(query[:, 0], call["query"][:, :, 0])
        assert not torch.allclose(query[:, 5], call["query"][:, :, 5])


def test_a_norm_over_all_heads_is_applied_before_the_heads_are_split() -> None:
    from transformers import Olmo2Config, Olmo2ForCausalLM

    model = Olmo2ForCausalLM(
        Olmo2Config(
            vocab_size=61,
            hidden_size=16,
            intermediate_size=24,
            num_hidden_layers=1,
            num_attention_heads=4,
            pad_token_id=0,
        )
    ).eval()
    site = attention_sites(model)[0]
    read = []
    site.query_projection.register_forward_hook(lambda _module, _args, output: read.append(site.query(output)))
    torch.testing.assert_close(captured(model, TOKENS)[0]["query"][:, :, 0], read[0][:, 0])


@pytest.mark.parametrize("architecture", ["llama", "gemma2", "qwen2"])
def test_the_exact_gate_gets_the_log_sum_of_the_attention_itself(architecture: str) -> None:
    model = tiny(architecture)
    adapter = create_adapter(model, settings(gate="exact"), seed=0)
    assert isinstance(adapter, GatedMemoryAdapter)
    with torch.no_grad(), adapter.recording_gates():
        model(TOKENS)
        gates = adapter.gates()
    state = adapter.trained_state()
    adapter.detach()
    lengths = torch.arange(1, TOKENS.shape[1] + 1)
    cap = model.config.to_dict().get("attn_logit_softcapping")
    for site, gate in zip(attention_sites(model), gates, strict=True):
        bias = state[f"{site.path}.gated_memory.gate_bias"]
        log_sum = bias - torch.logit(gate[0].double())  # [T, H]; u is 0 at the start
        assert 0.001 < gate.mean() < 0.5
        if cap:  # every logit lies within the cap
            assert (log_sum <= lengths.log()[:, None] + cap + 1e-4).all()
            assert (log_sum >= -cap - 1e-4).all()
        elif site.layer == 0 or architecture == "llama":
            call = captured(model, TOKENS)[site.layer]
            key = call["key"].repeat_interleave(2, dim=1)  # [1, H, T, d]
            scores = (call["query"] @ key.transpose(-1, -2) * call["scaling"])[0].double()  # [H, T, T]
            allowed = torch.ones(10, 10).tril().bool()
            if architecture == "qwen2":
                allowed &= ~torch.ones(10, 10).tril(-4).bool()  # a window of 4
            expected = scores.masked_fill(~allowed, -math.inf).logsumexp(-1).T  # [T, H]
            torch.testing.assert_close(log_sum, expected, atol=1e-3, rtol=1e-4)


@pytest.mark.parametrize("gate", ["query", "exact"])
def test_a_packed_row_with_a_mask_of_its_own_is_its_examples_alone(gate: Any) -> None:
    model = tiny("llama")
    adapter = create_adapter(model, settings(gate=gate), seed=0)
    for parameter in adapter.parameters():
        parameter.data.add_(0.3 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)))
    first, second = TOKENS[:, :4], TOKENS[:, 4:]
    allowed = torch.block_diag(torch.ones(4, 4), torch.ones(6, 6)).tril().bool()
    mask = torch.full((10, 10), torch.finfo(torch.float32).min).masked_fill(allowed, 0.0)[None, None]
    positions = torch.tensor([[0, 1, 2, 3, 0, 1, 2, 3, 4, 5]])
    with torch.no_grad():
        packed = model(TOKENS, attention_mask=mask, position_ids=positions, use_cache=False).logits
        apart = torch.cat([model(part, use_cache=False).logits for part in (first, second)], dim=1)
    torch.testing.assert_close(packed, apart, atol=1e-5, rtol=1e-5)


def test_gates_are_recorded_with_their_graph_and_only_where_asked_for() -> None:
    model = tiny("llama")
    adapter = create_adapter(model, settings(layers=(1,)), seed=0)
    assert isinstance(adapter, GatedMemoryAdapter)
    adapter.set_trainable(True)
    with adapter.recording_gates():
        model(TOKENS)
        (gate,) = adapter.gates()
        assert gate.shape == (1, TOKENS.shape[1], 4)
        gate.mean().backward()
        with rows(model, [None, "default", None]):
            model(TOKENS.repeat(3, 1))
        assert adapter.gates()[0].shape == (1, TOKENS.shape[1], 4)
    assert any(parameter.grad is not None and parameter.grad.any() for parameter in adapter.parameters())
    model(TOKENS)
    with pytest.raises(AdapterError, match="recording_gates"):
        adapter.gates()


@pytest.mark.parametrize("gate", ["query", "exact"])
def test_nothing_of_a_forward_pass_is_kept_after_it(gate: Any) -> None:
    model = tiny("llama")
    create_adapter(model, settings(gate=gate), seed=0).set_trainable(True)

    def with_a_graph() -> int:
        gc.collect()
        return sum(isinstance(thing, torch.Tensor) and thing.grad_fn is not None for thing in gc.get_objects())

    before = with_a_graph()
    assert model(TOKENS).logits.grad_fn is not None
    assert with_a_graph() == before


def test_bfloat16_models_keep_a_float32_memory() -> None:
    model = tiny("gemma2").to(torch.bfloat16)
    with torch.no_grad():
        before = model(TOKENS).logits
        adapter = create_adapter(model, settings(), seed=0)
        assert torch.equal(model(TOKENS).logits, before)
        assert {parameter.dtype for parameter in adapter.parameters()} == {torch.float32}
        adapter.detach()
        create_adapter(model, settings(gate="exact"), seed=0)
        torch.testing.assert_close(model(TOKENS).logits, before, atol=0.2, rtol=0.05)


def test_models_that_cannot_have_one_are_refused_in_one_sentence() -> None:
    from transformers import GPT2Config, GPT2LMHeadModel

    with pytest.raises(AdapterError, match="expected attentions with q_proj"):
        create_adapter(GPT2LMHeadModel(GPT2Config(n_embd=8, n_layer=1, n_head=2, vocab_size=61)), settings(), seed=0)
    with pytest.raises(AdapterError, match=r"layers among \[0, 1\], got \[2\]"):
        create_adapter(tiny("llama"), settings(layers=(0, 2)), seed=0)


@pytest.mark.parametrize("change", ["missing", "surplus", "shape", "version", "setting", "width"])
def test_a_gated_memory_that_does_not_fit_is_refused_and_the_base_left_clean(change: str) -> None:
    model = tiny("llama")
    with torch.no_grad():
        before = model(TOKENS).logits
    adapter = create_adapter(model, settings(gate="exact"), seed=0)
    config, state = adapter.stored()
    adapter.detach()
    first = "model.layers.0.self_attn.gated_memory.read_in"
    assert config["adapter"] == "gated-memory" and first in state
    if change == "missing":
        del state[first]
    elif change == "surplus":
        state[first + "_too"] = torch.zeros(1)
    elif change == "shape":
        state[first] = state[first][:1]
    elif change == "version":
        config["format_version"] = 2
    elif change == "setting":
        del config["gate"]
    else:
        config["width"] = -1
    with pytest.raises(LiftError):
        restore_adapter(model, config, state)
    with torch.no_grad():
        assert torch.equal(model(TOKENS).logits, before)
    restore_adapter(model, *create_adapter(tiny("llama"), settings(), seed=0).stored())


def test_a_trained_exact_gate_gives_attention_to_a_document_that_is_not_there() -> None:
    model = tiny("llama", num_hidden_layers=1, initializer_range=0.5)
    document = torch.randint(3, 61, (1, 24), generator=torch.Generator().manual_seed(3))
    ids = torch.cat([document, TOKENS], dim=1)
    seen = document.shape[1]
    with torch.no_grad():
        whole = model(ids, use_cache=False).logits[:, seen:]
        without = model(TOKENS, use_cache=False).logits
    (call,) = captured(model, ids)
    # m* and log Z_o: attention of the window's tokens to the document alone
    target, log_sum = attention_with_log_sum(
        call["query"][:, :, seen:], call["key"][:, :, :seen], call["value"][:, :, :seen], None, call["scaling"]
    )
    target, log_sum = target.transpose(1, 2), log_sum.transpose(1, 2)  # [1, T, H, d], [1, T, H]
    (site,) = attention_sites(model)
    queries = []
    handle = site.query_projection.register_forward_hook(lambda _m, _a, output: queries.append(site.query(output)))
    with torch.no_grad():
        model(TOKENS, use_cache=False)
    handle.remove()
    adapter = create_adapter(model, settings(gate="exact", start="published", width=8.0), seed=0)
    adapter.set_trainable(True)
    # the adapter's tensors are the layer's own: a layer with the same weights is trained on m* and log Z_o
    memory = GatedMemory(4, 4, width=8.0, gate="exact", start="published", generator=torch.Generator().manual_seed(0))
    optimizer = torch.optim.Adam(memory.parameters(), lr=0.03)
    errors = []
    for step in range(301):
        if step % 150 == 0:
            prefix = f"{site.path}.gated_memory."
            adapter.load_state({prefix + name: weight.data for name, weight in memory.named_parameters()})
            with torch.no_grad():
                errors.append(float((model(TOKENS, use_cache=False).logits - whole).abs().mean()))
        optimizer.zero_grad()
        loss = (memory.recall(queries[0]) - target).square().mean()
        loss = loss + (memory.log_sum_outside(queries[0]) - log_sum).square().mean()
        loss.backward()
        optimizer.step()
    alone = float((without - whole).abs().mean())
    assert errors[0] > errors[1] > errors[2]
    assert errors[2] < 0.25 * alone, f"{errors} against {alone} without the document"
