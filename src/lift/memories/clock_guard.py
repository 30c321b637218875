"""Whether the clock can be trusted with deleting what is old: not just after it has jumped.

A machine without a battery begins in 1970 or where a server of time says, and one wrong answer of that server makes
all work look years old. So the time is noted now and then; where it goes back, or has gone further than a library is
usually left alone for, nothing is deleted for a day.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import time
from pathlib import Path

HOUR_S = 3600.0
DAY_S = 24 * HOUR_S
LONGEST_GAP_S = 7 * DAY_S


def is_clock_settled(note: Path, now_s: float | None = None) -> bool:
    """Whether the clock has gone on evenly for a day by the file `note`, which is kept up to date.

    A library that is used more seldom than every LONGEST_GAP_S never has a settled clock. `now_s`: seconds since 1970,
    default now. Where the disk refuses the note the clock is not settled.
    """
    now_s = time.time() if now_s is None else now_s
    seen_s, since_s = _read(note)
    if not seen_s - HOUR_S <= now_s <= seen_s + LONGEST_GAP_S:
        since_s = now_s
    elif now_s - seen_s < HOUR_S:
        return now_s - since_s >= DAY_S
    fresh = note.with_name(note.name + ".new")
    try:
        fresh.write_text(json.dumps({"seen_s": now_s, "since_s": since_s}), "utf-8")
        os.replace(fresh, note)
    except OSError:
        with contextlib.suppress(OSError):
            fresh.unlink(missing_ok=True)
        return False
    return now_s - since_s >= DAY_S


def _read(note: Path) -> tuple[float, float]:
    try:
        values = json.loads(note.read_bytes())
        seen_s, since_s = float(values["seen_s"]), float(values["since_s"])
    except (OSError, ValueError, KeyError, TypeError):
        return -math.inf, -math.inf
    return (seen_s, since_s) if math.isfinite(seen_s) and math.isfinite(since_s) else (-math.inf, -math.inf)
