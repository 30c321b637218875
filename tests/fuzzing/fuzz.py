"""Fuzz one reader, or all in turn, guided by coverage (atheris):

    python tests/fuzzing/fuzz.py docx manifest --seconds 60
    python tests/fuzzing/fuzz.py all --seconds 60 --keep found

A reader fails where it raises anything that it does not say it raises, takes longer than 20 s, or more than 4 GB. The
inputs that it failed on are kept, one for each place in the code. One line a reader says how many inputs were tried.
Exits with 1 where one failed. `tests/data/fuzzing/READER` holds what each begins with, `tests/fuzzing/test_corpora.py`
reads it in every run of the tests.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import subprocess
import sys
import tempfile
import traceback
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

_INSTRUMENTED = [
    "lift.documents",
    "lift.memories",
    "lift.recipes",
    "lift.config",
    "lift.evaluation.data_files",
    "lift.evaluation.suites",
    "lift.server",
    "markdown_it",
    "mdit_py_plugins",
    "gguf",
]
_MOST_BYTES = 20_000
_TIMEOUT_S = 20
_MEMORY_MB = 4096


def main() -> int:
    """Fuzz each reader in a process of its own."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("readers", nargs="+", help="names of readers, or all")
    parser.add_argument("--seconds", type=int, default=60, help="for each reader")
    parser.add_argument("--keep", type=Path, default=Path("fuzz-found"), help="where inputs that fail are kept")
    options = parser.parse_args()
    from fuzzing.readers import READERS

    wanted = list(READERS) if options.readers == ["all"] else options.readers
    unknown = [name for name in wanted if name not in READERS]
    if unknown:
        parser.error(f"expected readers among {', '.join(READERS)}, got {unknown[0]!r}")
    failed = False
    for name in wanted:
        told = _run(name, options.seconds, options.keep / name)
        failed |= bool(told["failures"])
        print(json.dumps(told), flush=True)
    return int(failed)


def _run(name: str, seconds: int, keep: Path) -> dict[str, object]:
    keep.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as grown, (keep / "log.txt").open("wb") as log:
        from fuzzing.readers import CORPORA

        begins = CORPORA / name
        corpora = [grown, *([str(begins)] if begins.is_dir() else [])]
        flags = [
            f"-max_total_time={seconds}",
            f"-max_len={_MOST_BYTES}",
            f"-timeout={_TIMEOUT_S}",
            f"-rss_limit_mb={_MEMORY_MB}",
            f"-artifact_prefix={keep.resolve()}/",
            "-verbosity=0",
            "-print_final_stats=1",
        ]
        code = "import sys; sys.path.insert(0, sys.argv.pop(1)); from fuzzing.fuzz import fuzz; fuzz()"
        command = [sys.executable, "-c", code, str(Path(__file__).resolve().parents[1]), *flags, *corpora]
        environment = {**os.environ, "FUZZED_READER": name, "FUZZED_KEEP": str(keep.resolve())}
        status = subprocess.run(command, stdout=log, stderr=subprocess.STDOUT, env=environment, check=False).returncode
        kept = len(list(Path(grown).iterdir()))
    counts = {
        key: int(value)
        for key, _, value in (
            line.removeprefix("stat::").partition(":")
            for line in (keep / "log.txt").read_text("utf-8", "replace").splitlines()
            if line.startswith("stat::")
        )
        if value.strip().isdigit()
    }
    places = [path.name for path in sorted(keep.glob("*.txt")) if path.name != "log.txt"]
    ended = [path.name for path in sorted(keep.iterdir()) if path.name.startswith(("crash-", "timeout-", "oom-"))]
    return {
        "reader": name,
        "seconds": seconds,
        "inputs": counts.get("number_of_executed_units", 0),
        "new_for_coverage": kept,
        "peak_mb": counts.get("peak_rss_mb", 0),
        "failures": [*places, *ended, *([f"status {status}"] if status and not ended else [])],
    }


def fuzz() -> None:
    """In the process of one reader: try inputs until the time is over; a failure is kept, and fuzzing goes on."""
    import atheris

    with atheris.instrument_imports(include=_INSTRUMENTED):
        import lift.documents.parse
        import lift.server.invalid  # noqa: F401
        from fuzzing.readers import READERS
    name, keep = os.environ["FUZZED_READER"], Path(os.environ["FUZZED_KEEP"])
    read = READERS[name]
    with atheris.instrument_imports(include=_INSTRUMENTED):
        for seed in (b"", b"\0{}", b"x"):
            read(seed)  # what it imports when it is used first is instrumented too

    def one_input(data: bytes) -> None:
        try:
            read(data)
        except Exception as error:
            last = traceback.extract_tb(error.__traceback__)[-1]
            place = f"{type(error).__name__}-{Path(last.filename).name}-{last.lineno}"
            if not (keep / f"{place}.txt").exists():
                (keep / f"{place}.txt").write_text("".join(traceback.format_exception(error)), "utf-8")
                (keep / f"{place}.{hashlib.sha256(data).hexdigest()[:8]}.input").write_bytes(data)

    atheris.Setup(sys.argv, one_input)
    atheris.Fuzz()


if __name__ == "__main__":
    sys.exit(main())
