"""The arithmetic of a large model on a large GPU, against numbers worked out by hand."""

from __future__ import annotations

import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lift.bench.limits_bench import (
    DEVICES,
    Device,
    Setting,
    as_markdown,
    limit_of,
    limits,
    shape_of,
)
from lift.cli import run
from lift.errors import UsageError
from lift.models.decoder_arithmetic import (
    Shape,
    activation_bytes,
    forward_flops,
    lora_parameters,
    training_flops_per_token,
)

# two layers of one 4x4 and one 4x8 matrix, a head of 10x4, embeddings of 40 numbers
SMALL = Shape("small", 96, 40, 40, 2, 4, 8, 10, 6, 16, 24)
QUICK = Device("quick", 1000.0, 100.0, 1e6)


def test_llama_8b_is_counted_as_its_publisher_counts_it() -> None:
    shape = shape_of("llama-8b")
    assert shape.parameters == 8_030_261_248
    # a layer: q and o 4096x4096, k and v 4096x1024, gate, up and down 4096x14336
    assert shape.body == 32 * (2 * 4096 * 4096 + 2 * 4096 * 1024 + 3 * 4096 * 14336)
    assert shape.head == 128256 * 4096
    assert shape.key_value == 2 * 8 * 128
    # rank 16 on the seven matrices of a layer, as PEFT counts it
    assert lora_parameters(shape, 16) == 41_943_040


def test_an_unknown_shape_is_refused_with_those_there_are() -> None:
    with pytest.raises(UsageError, match="llama-8b"):
        shape_of("huge")


def test_operations_of_a_token_by_hand() -> None:
    # body 2 x 96, half of the head's 2 x 40, attention 4 x 2 layers x 4 x 5 tokens before
    assert forward_flops(SMALL, 5, 0.5) == 192 + 40 + 160
    # twice of body and head, three times attention, 6 a number of the adapter
    assert training_flops_per_token(SMALL, 7, 5, 0.5) == 384 + 80 + 480 + 42


def test_activations_by_hand() -> None:
    # a token and layer: 6 x 4 + 6 + 3 x 8 = 54 numbers of 2 bytes; logits of half the tokens, 10 x 2 x 4 bytes
    assert activation_bytes(SMALL, 3, 0.5) == 3 * (2 * 54 * 2 + 40)


def test_a_limit_by_hand() -> None:
    setting = Setting(
        rank=2,
        batch_tokens=3,
        example_tokens=10,
        labelled=0.5,
        per_document_token=2.0,
        epochs=3,
        utilisation=0.5,
        read_utilisation=0.5,
    )
    found = limit_of(SMALL, QUICK, 100, setting)
    adapter = 2 * 40
    assert found.weights_bytes == 2 * 176
    assert found.adapter_bytes == 4 * adapter
    assert found.optimiser_bytes == 12 * adapter
    assert found.train_bytes == 352 + 16 * adapter + 768
    assert found.fits
    assert found.flops_per_token == 384 + 80 + 480 + 6 * adapter
    assert found.train_tokens_per_s == 500 / found.flops_per_token
    assert found.absorb_s == pytest.approx(600 / found.train_tokens_per_s)
    assert found.kv_bytes == 100 * 2 * 6 * 2
    # 192 a token and attention to 50 tokens on average
    assert found.prefill_s == 100 * (192 + 4 * 2 * 4 * 50) / 500
    assert found.ask_tokens_per_s == 50 / (2 * (96 + 40 + adapter))
    assert found.read_tokens_per_s == 50 / (2 * 136 + 2400)


@given(st.integers(1, 10**6), st.floats(0.01, 1))
def test_absorbing_is_linear_in_the_text_and_reading_grows_faster(tokens: int, utilisation: float) -> None:
    setting = Setting(utilisation=utilisation)
    one, two = (limit_of(SMALL, QUICK, count, setting) for count in (tokens, 2 * tokens))
    assert math.isclose(two.absorb_s, 2 * one.absorb_s)
    assert two.train_bytes == one.train_bytes
    assert two.prefill_s > 2 * one.prefill_s
    assert two.read_tokens_per_s < one.read_tokens_per_s


@pytest.mark.parametrize("setting", [Setting(utilisation=0), Setting(utilisation=1.1), Setting(read_utilisation=0)])
def test_a_share_outside_its_range_is_refused(setting: Setting) -> None:
    with pytest.raises(ValueError, match="utilisations"):
        limit_of(SMALL, QUICK, 1, setting)


def test_the_table_has_a_line_for_each_device_and_length_and_says_what_does_not_fit() -> None:
    result = limits(SMALL, [200, 100], Setting())
    assert [(row["device"], row["document_tokens"]) for row in result["rows"]] == [
        (device.name, length) for device in DEVICES for length in (100, 200)
    ]
    lines = as_markdown(result).splitlines()
    assert len(lines) == 2 + 4
    assert len({line.count("|") for line in lines}) == 1
    assert "does not fit" not in as_markdown(result)
    large = {**result, "rows": [{**row, "fits": False} for row in result["rows"]]}
    assert as_markdown(large).count("does not fit") == 4


def test_the_command_prints_the_table_or_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["bench", "limits", "--lengths", "8k", "--utilisation", "0.5"]) == 0
    shown = capsys.readouterr().out
    assert shown.startswith("| GPU |")
    assert "8,192" in shown
    assert run(["bench", "limits", "--lengths", "8k", "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["setting"]["utilisation"] == 0.4
    assert run(["bench", "limits", "--utilisation", "2"]) == 2
    assert "--utilisation" in capsys.readouterr().err
    assert run(["bench", "limits", "--shape", "huge"]) == 2
