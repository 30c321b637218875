"""How long is waited before a request is made again."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from lift.endpoints.retry_policy import RetryPolicy, TransientFault, UnusableReply, retry_after_s

NOW = datetime(2024, 3, 14, 12, tzinfo=UTC)


@pytest.mark.parametrize(
    ("headers", "asked_s"),
    [
        ({"retry-after": "7"}, 7),
        ({"retry-after": "0.25"}, 0.25),
        ({"retry-after-ms": "1500", "retry-after": "2"}, 1.5),
        ({"retry-after": "Thu, 14 Mar 2024 12:00:09 GMT"}, 9),
        ({"retry-after": "Thu, 14 Mar 2024 11:00:00 GMT"}, 0),
        ({"retry-after": "soon"}, None),
        ({"retry-after": "-1"}, None),
        ({"retry-after": "nan"}, None),
        ({}, None),
    ],
)
def test_retry_after_is_read_as_seconds_or_date(headers: dict[str, str], asked_s: float | None) -> None:
    assert retry_after_s(headers, NOW) == asked_s


def test_waits_are_as_long_as_asked_for_else_doubled_and_bounded() -> None:
    policy = RetryPolicy(first_wait_s=0.5, longest_wait_s=120.0)
    waits = [policy.wait_s(failures, TransientFault("HTTP 500")) / 0.5 for failures in (1, 2, 3)]
    assert all(2**place <= wait <= 1.5 * 2**place for place, wait in enumerate(waits))
    assert policy.wait_s(5000, TransientFault("HTTP 500")) == 120
    assert policy.wait_s(3, TransientFault("HTTP 429", 7.0)) == 7
    assert policy.wait_s(1, TransientFault("HTTP 429", 86400.0)) == 120
    assert policy.wait_s(3, UnusableReply("not JSON")) == 0
    # an endpoint that asks for no wait at all is not asked again in a tight loop
    assert policy.wait_s(1, TransientFault("HTTP 503", 0.0)) >= 0.5
