"""How long to wait before a request is made again."""

from __future__ import annotations

import random
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

FIRST_WAIT_S = 0.5
LONGEST_WAIT_S = 120.0


def backoff_s(retry: int) -> float:
    """FIRST_WAIT_S for the first retry (counted from 1), doubled for each further one, spread by up to a half."""
    return min(FIRST_WAIT_S * 2.0 ** (retry - 1), LONGEST_WAIT_S) * random.uniform(1.0, 1.5)


def retry_after_s(header: str | None, now: datetime) -> float | None:
    """What a Retry-After header asks for: seconds, or a date (RFC 9110, 10.2.3); None where it says nothing readable.

    Never more than LONGEST_WAIT_S: an endpoint that wants longer counts as one that fails.
    """
    if header is None:
        return None
    if header.strip().isdecimal():
        wait_s = float(header)
    else:
        try:
            moment = parsedate_to_datetime(header)
        except ValueError:
            return None
        wait_s = ((moment if moment.tzinfo else moment.replace(tzinfo=UTC)) - now).total_seconds()
    return min(max(wait_s, 0.0), LONGEST_WAIT_S)
