"""Every change of a file that a command makes fails, or kills the process; a table says what became of the library.

    python tests/faults/sweep_faults.py [ACTION...] [--fault NAME...] [--sample N --seed S] [--json FILE]

Of each point: the library is verified, the memories that were finished answer as before, and the same command, with
--resume, ends as it would have without the fault: bit by bit where the process was killed. A point is lost where one
of these fails, or where a fault is no sentence. The shim (fault_shim.c) is compiled with cc and loaded before libc, so
that SQLite's and safetensors' own calls are met as well; the process starts itself anew with it.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import dataclasses
import errno
import json
import math
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

TESTS = Path(__file__).resolve().parent.parent
SHIM_SOURCE = Path(__file__).with_name("fault_shim.c")
_PRELOADED = "LIFT_FAULT_SHIM"
_MOST_POINTS = 3000
# name -> (errno, 0: SIGKILL; whether it happens once, or from there on)
FAULTS = {
    "killed": (0, True),
    "ENOSPC": (errno.ENOSPC, False),
    "ENOSPC once": (errno.ENOSPC, True),
    "EDQUOT once": (errno.EDQUOT, True),
    "EIO once": (errno.EIO, True),
    "EROFS": (errno.EROFS, False),
}
SAID, UNFORESEEN = 3, 4


def build_shim(directory: Path) -> Path:
    """The compiled shim; raises CalledProcessError or FileNotFoundError where there is no C compiler."""
    shim = directory / "fault_shim.so"
    subprocess.run(["cc", "-O1", "-shared", "-fPIC", "-o", shim, SHIM_SOURCE, "-ldl"], check=True, capture_output=True)
    return shim


@dataclasses.dataclass(frozen=True)
class Action:
    """`do(root)` on a copy of what `prepare(root)` made; `state(root)` is what is to be the old or the new one.

    `again(root)` is the same command given once more, after which all is as after an undisturbed one.
    """

    prepare: Callable[[Path], None]
    do: Callable[[Path], object]
    again: Callable[[Path], object]
    state: Callable[[Path], Any]


@dataclasses.dataclass
class Row:
    """One line of the table."""

    action: str
    fault: str
    points: int = 0
    changes: int = 0
    told: int = 0
    survived: int = 0
    lost: list[str] = dataclasses.field(default_factory=list)


class Sweep:
    """All actions on a tiny model, below `place`."""

    def __init__(self, place: Path) -> None:
        os.environ["LIFT_CACHE"] = str(place / "cache")
        sys.path.insert(0, str(TESTS))
        import torch
        from conftest import build_tiny_tokenizer, tiny_llama

        torch.set_num_threads(1)
        from lift.models.load import load_model
        from lift.training import training_loop

        # saved after every step, however long that takes
        training_loop._MOST_SAVING = math.inf
        self.place = place
        model = place / "model"
        tiny_llama().save_pretrained(model)
        build_tiny_tokenizer().save_pretrained(model)
        self.base = load_model(str(model), device="cpu", dtype="float32")
        self.shim = ctypes.CDLL(os.environ[_PRELOADED])
        self.shim.fault_count.restype = ctypes.c_long
        self.shim.fault_arm.argtypes = [ctypes.c_char_p, ctypes.c_long, ctypes.c_int, ctypes.c_int]
        self.templates: dict[str, Path] = {}

    # --- what is done

    def library(self, root: Path) -> Any:
        from lift.memories.library import MemoryLibrary

        return MemoryLibrary(root / "home")

    def document(self, which: int = 0) -> Any:
        from lift.documents.document import Document

        texts = [
            "Ada Quill founded the museum of Port Merrow in 1911. It owns 42 lenses.",
            "The tower burned in 1907. Merrow lies in the north.",
        ]
        return Document(f"Port Merrow {which}", texts[which], "test")

    def absorb(
        self, root: Path, which: int = 0, stop_after: int = 0, settings: Sequence[str] = (), **options: Any
    ) -> None:
        import threading

        from lift.absorbing.absorb import absorb_events
        from lift.absorbing.absorption_events import Trained
        from lift.absorbing.run_options import AbsorptionOptions
        from lift.errors import InterruptedAbsorption
        from lift.recipes.recipe import load_recipe

        stop = threading.Event()
        chosen = AbsorptionOptions(stop=stop, checkpoint_every_s=0.0, **options)
        small = ["training.epochs=1", "adapter.rank=2", "tasks.per_sentence=2", "training.batch_tokens=300"]
        recipe = load_recipe("default", [*small, "training.until_recall=0", *settings])
        steps = 0
        with contextlib.suppress(InterruptedAbsorption) if stop_after else contextlib.nullcontext():
            for event in absorb_events(self.document(which), self.base, recipe, self.library(root), chosen):
                steps += isinstance(event, Trained)
                if stop_after and steps >= stop_after:
                    stop.set()

    def add(self, root: Path) -> None:
        from lift.absorbing.add import add_events

        library = self.library(root)
        list(add_events(self.document(1), library["old"], self.base, library))

    def remove(self, root: Path) -> None:
        if "old" in self.library(root):
            self.library(root).remove("old")

    def rename(self, root: Path) -> None:
        if "old" in self.library(root):
            self.library(root).rename("old", "new")

    def export(self, root: Path, target: str) -> None:
        from lift.exporting.export import export_memory

        out = root / "out"
        if not out.exists():
            export_memory(self.library(root)["old"], self.base, target, out)

    def make_foreign(self, root: Path) -> None:
        from lift.exporting.peft_files import write_peft_adapter

        self.with_old(root)
        memory = self.library(root)["old"]
        config = {key: value for key, value in memory.adapter_config.items() if key != "alora_invocation_tokens"}
        write_peft_adapter(root / "foreign", config, memory.load_adapter_state())

    def import_foreign(self, root: Path) -> None:
        from lift.exporting.foreign_adapter import import_adapter

        if "imported" not in self.library(root):
            import_adapter(root / "foreign", self.base, self.library(root), "imported", document=self.document(1))

    def backup(self, root: Path) -> None:
        from lift.memories.backup import write_backup

        if not (root / "b.tar").exists():
            write_backup(self.library(root), root / "b.tar")

    def make_backup(self, root: Path) -> None:
        self.with_old(root)
        self.library(root).copy("old", "old-2")
        self.backup(root)
        self.library(root).remove("old")
        self.library(root).rename("old-2", "other")

    def restore(self, root: Path) -> None:
        from lift.memories.backup import restore_backup

        library = self.library(root)
        library.clear_garbage()
        if "old" not in library:
            restore_backup(library, root / "b.tar")

    def with_old(self, root: Path) -> None:
        """A library with one finished memory, made once."""
        if "old" not in self.templates:
            self.templates["old"] = self.place / "template-old"
            self.absorb(self.templates["old"], name="old")
        shutil.copytree(self.templates["old"], root, dirs_exist_ok=True)

    def with_plain(self, root: Path) -> None:
        """A library with one memory that acts everywhere."""
        self.absorb(root, 0, settings=("adapter.activated=false",), name="old")

    def with_checkpoint(self, root: Path) -> None:
        self.with_old(root)
        self.absorb(root, 1, stop_after=2, name="new")

    def with_jobs(self, root: Path) -> None:
        self.with_old(root)
        self.job(root)
        self.absorb(root, 1, stop_after=2, name="new")

    def job(self, root: Path) -> None:
        """An upload, its job, and all that its worker tells."""
        from lift.jobs.job import JobEventDraft
        from lift.jobs.store import JOBS_DIRECTORY, JobStore

        with contextlib.closing(JobStore(root / "home" / JOBS_DIRECTORY)) as store:
            if any(job.status == "succeeded" for job in store.jobs()):
                return
            file = store.add_file("quill.txt", "fine-tune", self.document().text.encode(), 1 << 20)
            job = store.create(file.id, title="Port Merrow 0", name="old")
            lease = store.lease()
            while (claimed := lease.claim()) is not None:
                lease.record(claimed.id, JobEventDraft("prepared", "the text of Port Merrow is read", {}), 0.5)
                lease.succeed(claimed.id, JobEventDraft("finished", "Port Merrow is known", {}), "old", 100)
            assert store.job(job.id).status == "succeeded"

    def clean(self, root: Path) -> None:
        from lift.jobs.housekeeping import KINDS, clear_leftovers, list_leftovers

        library = self.library(root)
        clear_leftovers(library, list_leftovers(library, [kind for kind in KINDS if kind != "models"], 0.0))

    def erase(self, root: Path) -> None:
        from lift.jobs.housekeeping import erase_memories

        if "old" in self.library(root):
            erase_memories(self.library(root), ["old"])

    # --- what is there

    def memories(self, root: Path) -> Any:
        """Name -> text, weights and tasks of every memory, by their hashes."""
        library = self.library(root)
        found = {}
        for name in library.names():
            files = library[name].manifest.files
            found[name] = [
                files[path].sha256 for path in ("document.txt", "tasks.jsonl", "adapter/adapter_model.safetensors")
            ]
        return found

    def with_out(self, root: Path) -> Any:
        out = root / "out"
        listed = sorted(path.relative_to(out).as_posix() for path in out.rglob("*") if path.is_file())
        # a half-written file would be shorter
        return self.memories(root), [(name, (out / name).stat().st_size) for name in listed if "json" not in name]

    def with_backup(self, root: Path) -> Any:
        from lift.memories.backup import restore_backup
        from lift.memories.library import MemoryLibrary

        if not (root / "b.tar").exists():
            return self.memories(root), None
        trial = Path(tempfile.mkdtemp(dir=self.place))
        restored = restore_backup(MemoryLibrary(trial / "home"), root / "b.tar")
        found = self.memories(trial)
        shutil.rmtree(trial)
        return self.memories(root), (restored, found)

    def with_job_states(self, root: Path) -> Any:
        from lift.jobs.store import JOBS_DIRECTORY, JobStore

        with contextlib.closing(JobStore(root / "home" / JOBS_DIRECTORY)) as store:
            for file in store.files():
                assert store.file_path(file.id).read_bytes() == self.document().text.encode()
            numbers = [event.number for event in store.events()]
            assert numbers == sorted(set(numbers))
            return self.memories(root), any(job.status == "succeeded" for job in store.jobs())

    def with_words(self, root: Path) -> Any:
        """Whether anything in the home still has the words of the memory, where it is gone."""
        if self.library(root).names():
            return self.memories(root), None
        words = [b"Quill", b"Merrow", b"old"]
        paths = [path for path in (root / "home").rglob("*") if path.is_file()]
        return {}, sorted({path.name for path in paths for word in words if word in path.read_bytes()})

    def actions(self) -> dict[str, Action]:
        """By name."""
        memories = self.memories

        def absorbing(root: Path) -> None:
            self.absorb(root, 1, name="new")

        def resuming(root: Path) -> None:
            self.absorb(root, 1, name="new", resume=True)

        found = {
            "absorb": Action(self.with_old, absorbing, resuming, memories),
            "resume": Action(self.with_checkpoint, resuming, resuming, memories),
            "into": Action(self.with_old, self.add, self.add, memories),
            "remove": Action(self.with_old, self.remove, self.remove, memories),
            "rename": Action(self.with_old, self.rename, self.rename, memories),
            "import": Action(self.make_foreign, self.import_foreign, self.import_foreign, memories),
            "backup": Action(self.with_old, self.backup, self.backup, self.with_backup),
            "restore": Action(self.make_backup, self.restore, self.restore, memories),
            "job": Action(self.with_old, self.job, self.job, self.with_job_states),
            "clean": Action(self.with_jobs, self.clean, self.clean, memories),
            "erase": Action(self.with_jobs, self.erase, self.erase, self.with_words),
        }
        for target in ("peft", "gguf", "merged"):

            def exporting(root: Path, target: str = target) -> None:
                self.export(root, target)

            found[f"export {target}"] = Action(self.with_plain, exporting, exporting, self.with_out)
        return found

    def answers(self, root: Path) -> Any:
        """Name -> an answer of each memory."""
        from lift.answering.answerer import open_memory

        library = self.library(root)
        return {name: open_memory(library[name], self.base).ask("Who?", "none").text for name in library.names()}

    # --- one point

    def run(self, action: Action, root: Path, at: int, fault: str) -> tuple[int, int, str]:
        """(status, changes met, what was said) of `action` in a child process with that fault at its `at`-th change."""
        code, only_once = FAULTS[fault]
        told = self.place / "told"
        told.unlink(missing_ok=True)
        sys.stdout.flush()
        child = os.fork()
        if child == 0:
            status, said = 0, ""
            os.environ["LIFT_CACHE"] = str(root / "cache")
            self.shim.fault_arm(str(root).encode(), at, code, int(only_once))
            try:
                action.do(root)
            except BaseException as error:
                from lift.errors import LiftError

                is_sentence = isinstance(error, LiftError) and "\n" not in str(error)
                status = SAID if is_sentence else UNFORESEEN
                said = str(error) if is_sentence else traceback.format_exc()
            met = self.shim.fault_count()
            self.shim.fault_arm(b"", 0, 0, 1)
            told.write_text(json.dumps([met, said]), "utf-8")
            os._exit(status)
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        met, said = json.loads(told.read_text("utf-8")) if told.exists() else (at, "")
        return status, met, said

    def sweep(self, name: str, fault: str, points: Sequence[int] | None, row: Row, part: tuple[int, int]) -> None:
        """All points of an action, or those, or every `part[1]`-th from `part[0]` on; `row` is filled."""
        action = self.actions()[name]
        fresh = self.place / "fresh"
        shutil.rmtree(fresh, ignore_errors=True)
        action.prepare(fresh)
        before, answers = action.state(fresh), self.answers(fresh)
        reference = self.place / "reference"
        shutil.rmtree(reference, ignore_errors=True)
        shutil.copytree(fresh, reference)
        status, row.changes, said = self.run(action, reference, _MOST_POINTS * 10, fault)
        assert status == 0, said
        after = action.state(reference)
        for at in points if points is not None else range(1 + part[0], row.changes + 1, part[1]):
            root = self.place / "point"
            shutil.rmtree(root, ignore_errors=True)
            shutil.copytree(fresh, root)
            status, met, said = self.run(action, root, at, fault)
            if met < at:  # this run had fewer changes than the first
                continue
            row.points += 1
            row.told += status == SAID
            problem = f"not a sentence: {said}" if status == UNFORESEEN else None
            problem = problem or self.check(action, root, before, after, answers, exact=fault == "killed")
            if problem is None:
                row.survived += 1
            else:
                row.lost.append(f"{at}: {problem}")

    def check(self, action: Action, root: Path, before: Any, after: Any, answers: Any, exact: bool) -> str | None:
        """The sentence of what was lost at a point, None where nothing was."""
        try:
            os.environ["LIFT_CACHE"] = str(root / "cache")
            library = self.library(root)
            if problems := library.verify():
                return f"verify: {problems[0]}"
            library.clear_garbage()  # as every writer does first
            state = action.state(root)
            if state != before and exact and state != after:
                return f"neither old nor new: {state}"
            old = {name: text for name, text in self.answers(root).items() if name in answers}
            if state == before and old != answers:
                return "answers otherwise"
            action.again(root)
            state = action.state(root)
            if exact and state != after:
                return f"done again, not as undisturbed: {state}"
            # after a fault that was survived, a cache that was full may have changed the last digits of the weights
            if not exact and without_weights(state) != without_weights(after):
                return f"done again, not as undisturbed: {state}"
            if problems := library.verify():
                return f"verify, done again: {problems[0]}"
            library.clear_garbage()
            if left := [entry for entry in os.listdir(library.root) if entry.startswith(".lift-")]:
                return f"left behind: {left}"
        except Exception:
            return traceback.format_exc()
        return None


def without_weights(state: Any) -> Any:
    """A state with the hashes of weights left out."""
    if isinstance(state, dict):
        return {name: value[:2] if isinstance(value, list) else value for name, value in state.items()}
    if isinstance(state, tuple):
        return tuple(without_weights(each) for each in state)
    return state


def print_table(rows: Sequence[Row], write: Callable[[str], object]) -> None:
    """Rows, and what was lost."""
    write(f"{'action':14} {'fault':12} {'changes':>8} {'points':>7} {'told':>6} {'survived':>9} {'lost':>5}")
    for row in rows:
        write(
            f"{row.action:14} {row.fault:12} {row.changes:8} {row.points:7} {row.told:6} {row.survived:9} "
            f"{len(row.lost):5}"
        )
    write(
        f"{'all':14} {'':12} {'':8} {sum(row.points for row in rows):7} {sum(row.told for row in rows):6} "
        f"{sum(row.survived for row in rows):9} {sum(len(row.lost) for row in rows):5}"
    )
    for row in rows:
        for lost in row.lost:
            write(f"LOST {row.action}, {row.fault}, change {lost}")


def run_sweep(options: argparse.Namespace) -> list[Row]:
    """The rows of the actions and faults that were asked for."""
    memory = Path("/dev/shm")
    place = Path(tempfile.mkdtemp(prefix="lift-faults-", dir=memory if memory.is_dir() else None))
    rows = []
    try:
        sweep = Sweep(place)
        pick = random.Random(options.seed)
        for name in options.actions or sweep.actions():
            faults = options.fault or list(FAULTS)
            if options.sample:
                faults = pick.sample(faults, min(options.faults_of_sample, len(faults)))
            for fault in faults:
                row = Row(name, fault)
                points = [pick.randrange(1, options.sample_up_to) for _ in range(options.sample)] or None
                began = time.monotonic()
                sweep.sweep(name, fault, points, row, tuple(options.part))
                rows.append(row)
                print(f"{name}, {fault}: {row.points} points, {time.monotonic() - began:.0f} s", file=sys.stderr)
    finally:
        shutil.rmtree(place, ignore_errors=True)
    return rows


def arguments(args: Sequence[str]) -> argparse.Namespace:
    """The options of this script."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("actions", nargs="*")
    parser.add_argument("--fault", action="append", choices=list(FAULTS))
    parser.add_argument("--sample", type=int, default=0, help="so many points of each action, drawn by chance")
    parser.add_argument("--sample-up-to", type=int, default=80, help="from the first so many changes")
    parser.add_argument("--faults-of-sample", type=int, default=1, help="so many kinds of fault of each action")
    parser.add_argument("--part", type=int, nargs=2, default=[0, 1], help="every N-th point from the K-th on: K N")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path)
    return parser.parse_args(args)


@contextlib.contextmanager
def preloaded() -> Iterator[dict[str, str]]:
    """The environment of a process with the shim before libc."""
    with tempfile.TemporaryDirectory(prefix="lift-shim-") as directory:
        shim = str(build_shim(Path(directory)))
        here = str(TESTS.parent / "src")
        path = os.pathsep.join(filter(None, [here, os.environ.get("PYTHONPATH")]))
        yield {
            **os.environ,
            "LD_PRELOAD": shim,
            _PRELOADED: shim,
            "PYTHONPATH": path,
            "HF_HUB_OFFLINE": "1",
            "OMP_NUM_THREADS": "1",
        }


def main() -> int:
    """Exit status 1 where something was lost."""
    if _PRELOADED not in os.environ:
        with preloaded() as environment:
            return subprocess.run([sys.executable, *sys.argv], env=environment, check=False).returncode
    os.environ.pop("LD_PRELOAD")  # for what this process starts
    options = arguments(sys.argv[1:])
    rows = run_sweep(options)
    print_table(rows, print)
    if options.json:
        options.json.write_text(json.dumps([dataclasses.asdict(row) for row in rows]), "utf-8")
    return int(any(row.lost for row in rows))


if __name__ == "__main__":
    sys.exit(main())
