"""Telemetry of libraries is off: Lift opens no connection that nobody asked for, nor does what it is built on.

Set before any library is imported, here and in the processes that Lift starts. A user's own settings win.
"""

from __future__ import annotations

import os
from collections.abc import MutableMapping

_OFF = {
    "DO_NOT_TRACK": "1",
    "DISABLE_TELEMETRY": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "OTEL_SDK_DISABLED": "true",
    "RAY_USAGE_STATS_ENABLED": "0",
    "VLLM_NO_USAGE_STATS": "1",
}


def switch_off_telemetry(environment: MutableMapping[str, str] = os.environ) -> None:
    """Tell every library that knows how to report about its use not to, unless `environment` says something else."""
    for name, value in _OFF.items():
        environment.setdefault(name, value)
