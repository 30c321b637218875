"""When a request to an endpoint is made again, and after what wait: tenacity's loop under one set of rules."""

from __future__ import annotations

import contextlib
import random
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Any

import tenacity

if TYPE_CHECKING:
    from openai import APIStatusError

# "Not now": timeout, conflict, too early, too many; 500 and above are a gateway's or server's own troubles.
_TRANSIENT_STATUSES = frozenset({408, 409, 425, 429})


class TransientFault(Exception):
    """A request failed in a way that may pass. It may have been carried out all the same: only the reply is missing."""

    def __init__(self, what: str, retry_after_s: float | None = None) -> None:
        super().__init__(what)
        self.retry_after_s = retry_after_s


class UnusableReply(TransientFault):
    """A reply came that cannot be used; the same request is made again at once."""


@dataclass(frozen=True)
class RetryPolicy:
    """How long a reply is waited for, and how often and after what wait (doubled each time) a request is repeated."""

    timeout_s: float = 60.0
    tries: int = 6
    first_wait_s: float = 1.0
    longest_wait_s: float = 120.0

    def options(self) -> dict[str, Any]:
        """Arguments of tenacity.Retrying and AsyncRetrying: a TransientFault is tried again, `tries` times in all."""
        return {
            "retry": tenacity.retry_if_exception_type(TransientFault),
            "stop": tenacity.stop_after_attempt(self.tries),
            "wait": lambda state: self.wait_s(state.attempt_number, fault_of(state)),
            "reraise": True,
        }

    def wait_s(self, failures: int, fault: TransientFault) -> float:
        """Seconds before the next try: as long as the endpoint asked for, else exponential with jitter; bounded."""
        if isinstance(fault, UnusableReply):
            return 0.0
        doubled_s = self.first_wait_s * 2.0 ** min(failures - 1, 64) * random.uniform(1.0, 1.5)
        return min(fault.retry_after_s or doubled_s, self.longest_wait_s)


def fault_of(state: tenacity.RetryCallState) -> TransientFault:
    """The fault that the last try has ended with."""
    fault = state.outcome.exception() if state.outcome else None
    assert isinstance(fault, TransientFault), "only these are tried again"
    return fault


def is_transient(error: APIStatusError) -> bool:
    """Whether the same request may be answered later; an account without credit stays without."""
    quota = "insufficient_quota" in (error.code, error.type)
    return (error.status_code in _TRANSIENT_STATUSES or error.status_code >= 500) and not quota


def retry_after_s(headers: Mapping[str, str], now: datetime | None = None) -> float | None:
    """The wait of a Retry-After header: seconds, or a date (RFC 9110, 10.2.3); None where it says nothing readable.

    Milliseconds of OpenAI's own retry-after-ms go first.
    """
    for header, unit_s in (("retry-after-ms", 1e-3), ("retry-after", 1.0)):
        with contextlib.suppress(ValueError):
            seconds = float(headers.get(header, "")) * unit_s
            if seconds >= 0:
                return seconds
    try:
        moment = parsedate_to_datetime(headers.get("retry-after", ""))
    except ValueError:
        return None
    moment = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
    return max((moment - (now or datetime.now(UTC))).total_seconds(), 0.0)
