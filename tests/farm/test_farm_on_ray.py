"""Real clusters of Ray, a tiny model, and an S3 server: drivers, workers and machines are killed at random moments."""

from __future__ import annotations

import atexit
import json
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import psutil
import pytest
from s3_proxy import failing_proxy

from lift.farm.destination import Destination, open_destination
from lift.memories.library import MemoryLibrary

pytest.importorskip("ray")
pytestmark = pytest.mark.slow
COUNT = 40
RECIPE = (
    "--set=adapter.rank=2",
    "--set=tasks.per_sentence=4",
    "--set=training.batch_tokens=200",
    "--set=tasks.held_out_per_sentence=1",
    "--set=training.epochs=1",
)


class Archive:
    """A table of short texts, which no reader has to open."""

    def __init__(self, folder: Path) -> None:
        self.table = folder / "archive.jsonl"
        self.texts = {
            f"Museum {number}": f"Ada Quill founded the museum of Port Merrow in {1900 + number}. "
            + f"It owns {number + 40} lenses. " * (1 + number % 3)
            for number in range(COUNT)
        }
        self.write()

    def write(self, *others: dict[str, str]) -> None:
        rows = [*({"title": title, "text": text} for title, text in self.texts.items()), *others]
        self.table.write_text("".join(json.dumps(row) + "\n" for row in rows))


@pytest.fixture
def archive(tmp_path: Path) -> Archive:
    return Archive(tmp_path)


def short_directory() -> str:
    """A directory of a test for Ray's sockets, whose paths have 107 bytes at most."""
    directory = tempfile.mkdtemp(prefix="ray-", dir="/tmp")
    atexit.register(shutil.rmtree, directory, ignore_errors=True)
    return directory


class Farm:
    """Runs of `lift absorb --farm`, each in a process of its own, in directories of their own."""

    def __init__(self, root: Path, model: Path) -> None:
        self.root, self.model = root, model
        self.environment = {
            **os.environ,
            "LIFT_HOME": str(root / "home"),
            "LIFT_CACHE": str(root / "cache"),
            "RAY_TMPDIR": short_directory(),
            "OMP_NUM_THREADS": "1",
            "RAY_worker_niceness": "0",
            "PYTHONPATH": os.pathsep.join(path for path in sys.path if path),
        }
        (root / "ray").mkdir()

    def start(self, source: Path, library: str, *options: str, address: str = "ray") -> subprocess.Popen[str]:
        command = [sys.executable, "-c", "from lift.cli import main; main()", "absorb", str(source), "--json"]
        command += ["--farm", address, "--workers=2", "--library", library, "--model", str(self.model), *RECIPE]
        return subprocess.Popen(
            [*command, *options],
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=(self.root / "stderr").open("a"),
            text=True,
            start_new_session=True,
        )

    def run(self, source: Path, library: str, *options: str, address: str = "ray") -> dict[str, Any]:
        return self.ended(self.start(source, library, *options, address=address))

    def ended(self, driver: subprocess.Popen[str]) -> dict[str, Any]:
        try:
            said, _ = driver.communicate(timeout=400)
        finally:
            end_tree(driver.pid)
        assert said.strip(), (self.root / "stderr").read_text()[-3000:]
        report: dict[str, Any] = json.loads(said)
        return report

    def kill_driver(self, driver: subprocess.Popen[str]) -> None:
        driver.kill()
        driver.wait()
        # Ray's own processes end with it; the next run must not meet them
        wait_until(lambda: not processes(str(self.root / "ray")), 60)


@pytest.fixture
def farm(tmp_path_factory: pytest.TempPathFactory, tiny_directory: Path) -> Iterator[Farm]:
    root = tmp_path_factory.mktemp("f")  # sockets have short names
    made = Farm(root, tiny_directory)
    yield made
    for process in processes(str(root / "ray")):
        with suppress(psutil.Error):
            process.kill()


def processes(mark: str) -> list[psutil.Process]:
    """Those whose command line names `mark`."""
    found = []
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            if any(mark in word for word in process.cmdline()) and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
    return found


def workers_below(pid: int) -> list[psutil.Process]:
    """The processes of Ray's actors below a driver."""
    with suppress(psutil.Error):
        return [each for each in psutil.Process(pid).children(recursive=True) if "ray::_Absorber" in name_of(each)]
    return []


def name_of(process: psutil.Process) -> str:
    with suppress(psutil.Error):
        return " ".join(process.cmdline())
    return ""


def end_tree(pid: int) -> None:
    with suppress(psutil.Error):
        for process in [*psutil.Process(pid).children(recursive=True), psutil.Process(pid)]:
            with suppress(psutil.Error):
                process.kill()


def wait_until(reached: Any, seconds: float) -> None:
    until = time.monotonic() + seconds
    while not reached():
        assert time.monotonic() < until, "waited in vain"
        time.sleep(0.1)


def wait_for(driver: subprocess.Popen[str], library: Destination, memories: int) -> None:
    """Until there are so many memories, or the run has ended."""
    wait_until(lambda: len(library.names()) >= memories or driver.poll() is not None, 200)


def check_complete(library: Destination, documents: int) -> None:
    """Every document has one memory, each whole."""
    assert library.verify() == []
    names = library.names()
    texts = Counter(library[name].manifest.document.sha256 for name in names)
    assert len(names) == documents and set(texts.values()) == {1}


def test_workers_may_be_killed_at_random(farm: Farm, archive: Archive, tmp_path: Path) -> None:
    """Six kills of workers, one at a time; a document that cannot be read fails, and no other."""
    chance = random.Random(1)
    broken = tmp_path / "broken.pdf"
    broken.write_bytes(b"%PDF-1.4 nothing behind it")
    archive.write({"path": str(broken)})
    library = MemoryLibrary(tmp_path / "library")
    driver = farm.start(archive.table, str(library.root))
    killed = 0
    for number in range(6):
        wait_for(driver, library, 4 * number + 2)
        time.sleep(chance.random())
        for victim in workers_below(driver.pid)[:1]:
            victim.kill()
            killed += 1
    report = farm.ended(driver)
    assert killed == 6 and 1 <= report["workers_lost"] <= 6
    assert report["absorbed"] + report["reused"] == COUNT
    assert list(report["failed"]) == ["broken"] and "broken.pdf" in report["failed"]["broken"]["message"]
    assert report["failures_by_kind"] == {"DocumentError": 1}
    check_complete(library, COUNT)


def test_drivers_may_be_killed_at_random(farm: Farm, archive: Archive, tmp_path: Path) -> None:
    """What is done is never trained again, though three drivers are killed; what has changed is, in its old place."""
    chance = random.Random(2)
    library = MemoryLibrary(tmp_path / "library")
    for number in range(3):
        driver = farm.start(archive.table, str(library.root), "--resume")
        wait_for(driver, library, 9 * (number + 1))
        time.sleep(chance.random())
        farm.kill_driver(driver)
    made = {name: library[name].manifest.created_at for name in library.names()}
    archive.texts["Museum 0"] = "Ben Tarr founded the museum of Port Merrow in 1850."
    archive.write()
    report = farm.run(archive.table, str(library.root), "--resume")
    assert report["failed"] == {} and report["reused"] >= len(made) - 1
    assert report["absorbed"] + report["reused"] == COUNT
    assert "Ben Tarr" in library["museum-0"].document.text
    assert all(library[name].manifest.created_at == when for name, when in made.items() if name != "museum-0")
    check_complete(library, COUNT)


@contextmanager
def cluster_of(machines: int, root: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    monkeypatch.setenv("RAY_TMPDIR", short_directory())
    monkeypatch.setenv("RAY_worker_niceness", "0")  # else its workers stand behind all else that runs
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(os.path.abspath(path) for path in sys.path if path))
    from ray.cluster_utils import Cluster

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
    try:
        for _ in range(machines):
            cluster.add_node(num_cpus=1)
        yield cluster
    finally:
        cluster.shutdown()


def test_a_machine_may_be_lost(farm: Farm, archive: Archive, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A cluster of three raylets: one is killed while it absorbs, another joins; every document is absorbed once."""
    with cluster_of(2, farm.root, monkeypatch) as cluster:
        farm.environment["RAY_ADDRESS"] = cluster.address
        driver = farm.start(archive.table, str(tmp_path / "library"), address=f"ray://{cluster.address}")
        library = MemoryLibrary(tmp_path / "library")
        wait_for(driver, library, 4)
        cluster.remove_node(cluster.list_all_nodes()[-1], allow_graceful=False)
        cluster.add_node(num_cpus=1)
        report = farm.ended(driver)
    assert report["absorbed"] + report["reused"] == COUNT and report["failed"] == {}
    check_complete(library, COUNT)


@pytest.fixture
def s3_port(tmp_path: Path) -> Iterator[int]:
    """moto's S3 server, from this environment or the one that LIFT_TEST_MOTO names."""
    program = os.environ.get("LIFT_TEST_MOTO") or shutil.which("moto_server")
    if program is None:
        pytest.skip("needs moto_server: pip install 'moto[s3,server]' somewhere, and name it in LIFT_TEST_MOTO")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    server = subprocess.Popen([program, "-H", "127.0.0.1", "-p", str(port)], stderr=(tmp_path / "moto").open("w"))
    try:
        wait_until(lambda: can_connect(port), 60)
        yield port
    finally:
        server.send_signal(signal.SIGKILL)
        server.wait()


def can_connect(port: int) -> bool:
    with socket.socket() as asked:
        return asked.connect_ex(("127.0.0.1", port)) == 0


def test_a_store_on_which_requests_fail_gets_every_memory_once(
    farm: Farm, archive: Archive, s3_port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("obstore")
    import httpx

    with failing_proxy(s3_port, one_in=10) as (url, counts):
        keys = {
            "AWS_ENDPOINT_URL": url,
            "AWS_ACCESS_KEY_ID": "test",
            "AWS_SECRET_ACCESS_KEY": "test",
            "AWS_REGION": "us-east-1",
            "AWS_ALLOW_HTTP": "true",
        }
        farm.environment.update(keys)
        for key, value in keys.items():
            monkeypatch.setenv(key, value)
        httpx.put(f"http://127.0.0.1:{s3_port}/papers").raise_for_status()
        place = "s3://papers/library"
        driver = farm.start(archive.table, place)
        library = open_destination(place)
        wait_for(driver, library, 6)
        for victim in workers_below(driver.pid)[:1]:
            victim.kill()
        time.sleep(2)
        farm.kill_driver(driver)
        report = farm.run(archive.table, place, "--resume")
        assert report["failed"] == {} and report["absorbed"] + report["reused"] == COUNT
        assert report["reused"] >= 5
        check_complete(library, COUNT)
        assert counts["failed"] > 50
