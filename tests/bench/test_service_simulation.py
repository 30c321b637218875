"""The simulated service keeps to what queueing theory says where that is known in closed form."""

from __future__ import annotations

from pathlib import Path

import pytest

from lift.bench.service_simulation import Placing, Service, UnitCosts, farm_hours, read_service, simulate_service
from lift.errors import UsageError

COSTS = UnitCosts(absorb_s_per_token=0.01, adapter_bytes=2e6, answer_s=0.1)


def test_one_server_waits_as_theory_says() -> None:
    """M/D/1: the mean wait is rho s / (2 (1 - rho))."""
    found = simulate_service(COSTS, Service(memories=10, questions_per_s=7, servers=1), 20_000)
    assert found.busy == pytest.approx(0.7, rel=0.03)
    assert found.wait_mean_s == pytest.approx(0.7 * 0.1 / (2 * 0.3), rel=0.08)
    assert found.latency_mean_s == pytest.approx(found.wait_mean_s + 0.1)


def test_what_is_asked_alike_is_held_by_the_share_that_fits() -> None:
    costs = UnitCosts(absorb_s_per_token=0, adapter_bytes=1, answer_s=0.001, attach_s=0.002, disk_s=0.003, store_s=0.01)
    service = Service(memories=100, questions_per_s=5, servers=1, held=20, on_disk=50, zipf=0)
    found = simulate_service(costs, service, 4_000)
    assert found.held_share == pytest.approx(0.2, abs=0.02)
    assert found.disk_share == pytest.approx(0.3, abs=0.02)
    assert found.store_share == pytest.approx(0.5, abs=0.02)
    mean_s = 0.001 + 0.3 * 0.005 + 0.5 * 0.012
    assert found.latency_mean_s - found.wait_mean_s == pytest.approx(mean_s, rel=0.05)


def test_replicas_of_hot_memories_even_out_the_servers() -> None:
    alone = Service(memories=1000, questions_per_s=60, servers=8, zipf=1.2, held=1000)
    shared = Service(memories=1000, questions_per_s=60, servers=8, zipf=1.2, held=1000, replica_share=0.2)
    before, after = (simulate_service(COSTS, each, 300) for each in (alone, shared))
    assert after.busiest < before.busiest and after.wait_mean_s < before.wait_mean_s


def test_a_server_more_moves_few_memories() -> None:
    before, after = Placing(10), Placing(11)
    names = [str(number) for number in range(4000)]
    moved = [name for name in names if before.servers_of(name) != after.servers_of(name)]
    assert 0.04 < len(moved) / len(names) < 0.16
    assert {after.servers_of(name) for name in moved} == {(10,)}
    assert len(set(before.servers_of("a", 3))) == 3 and len(before.servers_of("a", 99)) == 10


def test_costs_are_added_up() -> None:
    assert farm_hours(COSTS, 1000, 3600, 10) == pytest.approx(1.0)
    costs = UnitCosts(absorb_s_per_token=0, adapter_bytes=1e9, answer_s=0.1, machine_price_per_h=3.6)
    found = simulate_service(costs, Service(memories=10, questions_per_s=2, servers=2), 100)
    assert found.price_per_million_questions == pytest.approx(1000.0)
    for wrong in (-1.0, float("nan"), float("inf")):
        with pytest.raises(UsageError):
            UnitCosts(absorb_s_per_token=wrong, adapter_bytes=1, answer_s=1)
    with pytest.raises(UsageError):
        Service(memories=0, questions_per_s=1, servers=1)
    with pytest.raises(UsageError):
        simulate_service(COSTS, Service(memories=1, questions_per_s=1, servers=1), 0)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[costs", "TOML file"),
        ("[costs]\n", "tables costs and service"),
        ("[costs]\nanswer_s = 1\n[service]\n", "got less"),
        ("[costs]\nanswer_s = '1'\n[service]\n", "got 'answer_s'"),
        ("[costs]\nmemories = 1\n[service]\n", "got 'memories'"),
        ("costs = 3\n[service]\n", "expected numbers"),
    ],
)
def test_a_wrong_file_is_refused_in_a_sentence(tmp_path: Path, text: str, said: str) -> None:
    path = tmp_path / "service.toml"
    path.write_text(text)
    with pytest.raises(UsageError, match=said):
        read_service(path)


def test_a_file_is_read(tmp_path: Path) -> None:
    path = tmp_path / "service.toml"
    path.write_text(
        "[costs]\nabsorb_s_per_token = 0.01\nadapter_bytes = 2e6\nanswer_s = 0.1\n"
        "[service]\nmemories = 10\nquestions_per_s = 7\nservers = 1\n"
    )
    assert read_service(path) == (COSTS, Service(memories=10, questions_per_s=7, servers=1))
