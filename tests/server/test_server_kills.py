"""`lift serve` killed at random moments: no accepted job, event or memory is lost, and no answer is a wrong one."""

from __future__ import annotations

import itertools
import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Any

import httpx
import loopback
import pytest
from jobs.test_worker import Place, check_whole
from live_server import put_memory

from lift.memories.library import MemoryLibrary
from lift.models.load import load_model

KILLS = 6
ASKERS = 3
UNDER_WAY = 2  # jobs that are ordered ahead, so that hardly a kill finds none
PATIENCE_S = 600.0
MEMORIES = ("quill", "quoin")
BROKEN = (httpx.NetworkError, httpx.RemoteProtocolError)
ENDED = ("succeeded", "failed", "cancelled")


@dataclass(frozen=True)
class Question:
    """What is asked of a memory; of "auto" the answer comes in one piece, of the others token by token."""

    memory: str
    text: str
    context: str


QUESTIONS = [
    Question(memory, text, context)
    for text, context in (("Who founded it?", "none"), ("How many lenses?", "evidence"), ("What burned?", "auto"))
    for memory in MEMORIES
]


class Server:
    """One life of `lift serve`, and of the worker that it starts."""

    def __init__(self, library: Path, model: Path, log: IO[str]) -> None:
        self._library = library
        self.begun_at = time.time()
        options = ["--library", str(library), "--model", str(model), "--port", "0", "--requests-per-minute", "1000000"]
        self.process = subprocess.Popen(
            [sys.executable, "-c", "from lift.cli import main; main()", "serve", *options, "--json"],
            stdout=subprocess.PIPE,
            stderr=log,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            text=True,
        )
        self.url: str | None = None
        self._reader = threading.Thread(target=self._read_url)
        self._reader.start()

    def kill(self, with_worker: bool) -> None:
        """The server dies, and its worker at once, as with the machine, or by itself when it sees that it is alone."""
        workers = processes_of(self._library) if with_worker else []
        for process in (self.process.pid, *workers):
            try:
                os.kill(process, signal.SIGKILL)
            except ProcessLookupError:
                assert process != self.process.pid
        self.process.wait()
        self._reader.join()
        self.url = None  # nobody is to ask it again and again

    def stop(self) -> int:
        self.process.terminate()
        status = self.process.wait(PATIENCE_S)
        self._reader.join()
        return status

    def _read_url(self) -> None:
        assert self.process.stdout is not None
        with self.process.stdout as told:
            if line := told.readline():
                self.url = json.loads(line)["url"]


def processes_of(library: Path) -> list[int]:
    """The workers of the library, those included whose server is dead."""
    found = []
    for command in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            arguments = command.read_bytes().split(b"\0")
        except OSError:
            continue  # it has just ended
        if b"lift.jobs.worker" in arguments and str(library).encode() in arguments:
            found.append(int(command.parent.name))
    return found


class Crowd:
    """Clients on threads: some ask, one orders absorptions, and one for each job follows its events."""

    def __init__(self, library: Path, model: Path, log: IO[str]) -> None:
        self._start: Callable[[], Server] = lambda: Server(library, model, log)
        self.model = model.name
        self.server = self._start()
        self.asking, self.enough, self.over = threading.Event(), threading.Event(), threading.Event()
        self.whole: list[tuple[Question, str]] = []
        self.broken: list[tuple[Question, str]] = []
        self.hearing: set[int] = set()
        self.seen: dict[str, list[dict[str, Any]]] = {}
        self._threads = ThreadPoolExecutor(ASKERS + UNDER_WAY + 2)
        self._doings: list[Future[None]] = []

    def begin(self) -> None:
        """Let them all begin; what goes wrong with one is raised by wait_for."""
        self._doings += [self._threads.submit(self._ask_on, number) for number in range(ASKERS)]
        self._doings.append(self._threads.submit(self._order_on))

    def start_again(self) -> None:
        self.server = self._start()

    def wait_for(self, reached: Callable[[], object]) -> None:
        until = time.monotonic() + PATIENCE_S
        while not reached():
            for doing in self._doings:
                if doing.done():
                    doing.result()
            assert self.server.process.poll() is None, "the server has ended by itself"
            assert time.monotonic() < until, {job: seen[-1:] for job, seen in self.seen.items()}
            time.sleep(0.01)

    def done(self) -> bool:
        """Whether everybody has ended, which nobody does before `enough`, and askers not before `over`."""
        return all(doing.done() for doing in self._doings[ASKERS:])

    def close(self) -> None:
        """Send everybody home, whatever they are at; for a server that is no more. Raises what went wrong."""
        self.over.set()
        self._threads.shutdown()
        for doing in self._doings:
            doing.result()

    def has_begun(self, after: float) -> bool:
        """Whether a worker has taken a job since then, as far as its reader knows."""
        events = (event for seen in [*self.seen.values()] for event in [*seen])
        return any(event["kind"] in ("started", "resumed") and event["at"] > after for event in events)

    def trained(self) -> float:
        """How many jobs were done as far as their readers know, the one under way in part."""
        return sum(1.0 if has_ended(seen) else furthest(seen) for seen in [*self.seen.values()])

    def pieces(self, question: Question, url: str | None) -> Iterator[str]:
        """A streamed answer; raises BROKEN where the connection breaks. Any other end but that of the stream fails."""
        body = {"model": question.memory, "context": question.context, "stream": True, "max_tokens": 120}
        body["messages"] = [{"role": "user", "content": question.text}]
        with loopback.stream("POST", f"{url}/v1/chat/completions", json=body, timeout=PATIENCE_S) as response:
            assert response.status_code == 200, response.read()
            for data in data_of(response):
                if data == "[DONE]":
                    return
                (choice,) = json.loads(data)["choices"]
                yield choice["delta"].get("content", "")
        raise AssertionError("a stream has ended without its end")

    def _ask_on(self, number: int) -> None:
        for question in itertools.cycle(QUESTIONS[number:] + QUESTIONS[:number]):
            if (url := self._server_url(self.asking)) is None:
                return
            said = ""
            try:
                for piece in self.pieces(question, url):
                    said += piece
                    if said:
                        self.hearing.add(number)
                self.whole.append((question, said))
            except BROKEN:
                self.broken.append((question, said))
            finally:
                self.hearing.discard(number)

    def _order_on(self) -> None:
        for number in itertools.count():
            while sum(not has_ended(seen) for seen in [*self.seen.values()]) >= UNDER_WAY and not self.enough.is_set():
                if self.over.wait(0.05):
                    return
            last = self.enough.is_set()
            text = f"# Museum {number}\n\nAda Quill founded the lighthouse museum of Port Merrow in {1900 + number}. "
            text += f"The museum owns {number + 40} lenses. A storm destroyed the old tower in {1800 + number}."
            upload = {"data": {"purpose": "fine-tune"}, "files": {"file": (f"museum-{number}.md", text)}}
            if (file := self._post("/v1/files", **upload)) is None:
                return
            order = {"model": self.model, "training_file": file["id"], "hyperparameters": {"n_epochs": 3}}
            if (job := self._post("/v1/fine_tuning/jobs", json=order)) is None:
                return
            self.seen[job["id"]] = []
            self._doings.append(self._threads.submit(self._follow, job["id"]))
            if last:
                return

    def _post(self, path: str, **content: Any) -> dict[str, Any] | None:
        """The answer of whichever server is the first to give one; None where it is over."""
        while (url := self._server_url()) is not None:
            try:
                response = loopback.post(f"{url}{path}", timeout=PATIENCE_S, **content)
            except BROKEN:
                continue
            assert response.status_code == 200, response.text
            answer: dict[str, Any] = response.json()
            return answer
        return None

    def _follow(self, job: str) -> None:
        seen = self.seen[job]
        while not has_ended(seen) and (url := self._server_url()) is not None:
            after = {"Last-Event-ID": str(seen[-1]["number"])} if seen else {}
            try:
                with loopback.stream(
                    "GET", f"{url}/api/jobs/{job}/events", headers=after, timeout=PATIENCE_S
                ) as response:
                    assert response.status_code == 200, response.read()
                    for data in data_of(response):
                        seen.append(json.loads(data))
            except BROKEN:
                continue

    def _server_url(self, allowed: threading.Event | None = None) -> str | None:
        """Where there is a server that can be asked, as soon as there is; None where it is over before."""
        while not self.over.is_set():
            url = self.server.url
            if url is not None and (allowed is None or allowed.is_set()):
                return url
            self.over.wait(0.02)
        return None


def data_of(response: httpx.Response) -> Iterator[str]:
    for line in response.iter_lines():
        if line.startswith("data: "):
            yield line.removeprefix("data: ")


def has_ended(seen: list[dict[str, Any]]) -> bool:
    return bool(seen) and seen[-1]["kind"] in ENDED


def furthest(seen: list[dict[str, Any]]) -> float:
    return max((event["data"]["progress"] for event in [*seen] if event["kind"] == "trained"), default=0.0)


class Killer:
    """Waits for a moment at which the server is to die: while it starts, while it answers, while it also trains.

    That a job gets further than ever is waited for in every third life, as one that is killed five times in one place
    has failed, and is to. `start_s` and `answer_s` are what these take on this machine.
    """

    def __init__(self, crowd: Crowd, start_s: float, answer_s: float, seed: int) -> None:
        self.crowd = crowd
        self.start_s = start_s
        self.answer_s = answer_s
        self.pick = random.Random(seed)

    def wait_in_life(self, number: int) -> None:
        if number % 3 == 0:
            self.wait_for_training()
        elif number % 3 == 1:
            self.crowd.asking.set()
            time.sleep(self.pick.uniform(0.0, self.start_s))
            return
        self.crowd.asking.set()
        self.crowd.wait_for(lambda: self.crowd.hearing)
        time.sleep(self.pick.uniform(0.0, 3 * self.answer_s))

    def wait_for_training(self) -> None:
        # the worker is nice to whoever answers: while questions are asked without a pause, it hardly gets under way
        self.crowd.asking.clear()
        self.crowd.wait_for(lambda: self.crowd.has_begun(self.crowd.server.begun_at))
        before = self.crowd.trained()
        self.crowd.wait_for(lambda: self.crowd.trained() > before + 0.1)


@pytest.mark.slow
def test_kills_of_a_server_lose_no_job_no_event_and_no_memory_and_make_no_answer_wrong(
    tiny_directory: Path, tmp_path: Path
) -> None:
    library = MemoryLibrary(tmp_path / "library")
    base = load_model(str(tiny_directory))
    for number, name in enumerate(MEMORIES):
        put_memory(library, base, name, number)
    with (tmp_path / "server.log").open("w") as log:
        begun = time.monotonic()
        crowd = Crowd(library.root, tiny_directory, log)
        try:
            crowd.wait_for(lambda: crowd.server.url)
            ready = time.monotonic()
            undisturbed = {question: "".join(crowd.pieces(question, crowd.server.url)) for question in QUESTIONS}
            killer = Killer(crowd, ready - begun, (time.monotonic() - ready) / len(QUESTIONS), 0)
            crowd.begin()
            for number in range(KILLS):
                killer.wait_in_life(number)
                crowd.server.kill(with_worker=killer.pick.random() < 0.5)
                crowd.start_again()
            crowd.enough.set()
            crowd.asking.clear()
            crowd.wait_for(crowd.done)
            assert crowd.server.stop() == 0
            assert processes_of(library.root) == []
        finally:
            if crowd.server.process.poll() is None:
                crowd.server.kill(with_worker=True)
            crowd.close()
            for orphan in processes_of(library.root):
                os.kill(orphan, signal.SIGKILL)

    assert len(set(undisturbed.values())) == len(QUESTIONS)
    assert [said for question, said in crowd.whole if said != undisturbed[question]] == []
    assert [said for question, said in crowd.broken if not undisturbed[question].startswith(said)] == []
    assert crowd.whole
    assert any(said for _, said in crowd.broken)
    assert not [each.name for each in library.root.iterdir() if each.name.startswith((".lift-tmp-", ".lift-old-"))]
    assert not [*(library.root / ".serve" / "files").glob(".tmp-*")]
    place = Place(tmp_path, tiny_directory)
    with closing(place.store):
        check_whole(place, MEMORIES)
        told = {job.id: [asdict(event) for event in place.events(job)] for job in place.store.jobs()}
    assert {job: told.get(job) for job in crowd.seen} == crowd.seen
    assert any(event["kind"] == "resumed" for events in told.values() for event in events)
