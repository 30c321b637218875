"""Nothing leaves this machine unasked: every command runs with a guard around all sockets, in every process it starts.

`lift serve` too; and its logs, with those of its worker, hold no word of a document, a question or an answer.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path

import loopback
import pytest

from lift.models.telemetry import switch_off_telemetry

GUARD = Path(__file__).resolve().parents[1] / "network_guard"
SOURCE = Path(__file__).resolve().parents[2] / "src"
TEXT = (
    "Quorvane Abbey was founded in 1302 by Matilda Brisk. It owns forty zinnober goblets. "
    "The abbot may lend no goblet between May and August. Its bell weighs 900 kilograms.\n"
) * 2
SECRETS = ("quorvane", "brisk", "zinnober", "goblet", "abbot")
QUICK = ["--set", "training.epochs=1", "--set", "tasks.per_sentence=2"]
DRIVER = """
import glob, json, sys
import lift.cli
for command in json.loads(sys.argv[1]):
    command = [next(iter(glob.glob(each)), each) if "*" in each else each for each in command]
    try:
        status = lift.cli.run(command)
    except SystemExit as error:
        status = error.code
    print("STATUS", status, command[:2], file=sys.stderr, flush=True)
"""


def guarded(tmp_path: Path, **changes: str) -> dict[str, str]:
    """An environment in which every Python is guarded, and in which nothing says to stay offline."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "LIFT_", "TRANSFORMERS_"))}
    return {
        **kept,
        "PYTHONPATH": f"{GUARD}:{SOURCE}",
        "NETWORK_GUARD_LOG": str(tmp_path / "network.log"),
        "LIFT_HOME": str(tmp_path / "library"),
        "LIFT_CACHE": str(tmp_path / "cache"),
        "HF_HOME": str(tmp_path / "hub"),
        "OMP_NUM_THREADS": "1",
        **changes,
    }


def attempts(tmp_path: Path) -> str:
    log = tmp_path / "network.log"
    return log.read_text("utf-8") if log.exists() else ""


@pytest.mark.slow  # every command
def test_no_command_opens_a_connection_unasked(tmp_path: Path, tiny_directory: Path) -> None:
    text, markdown, html = (tmp_path / f"abbey.{ending}" for ending in ("txt", "md", "html"))
    text.write_text(TEXT, "utf-8")
    markdown.write_text(f"# Abbey\n\n![x](http://elsewhere.example/x.png)\n\n{TEXT}", "utf-8")
    html.write_text(
        '<!DOCTYPE html SYSTEM "http://elsewhere.example/x.dtd"><base href="http://elsewhere.example/">'
        f'<link rel=stylesheet href="x.css"><script src="x.js"></script><img src="x.png"><p>{TEXT}',
        "utf-8",
    )
    questions = tmp_path / "questions.jsonl"
    asked = [{"question": "Who founded the abbey?", "answers": ["Matilda Brisk"]}]
    questions.write_text(json.dumps({"title": "Abbey", "context": TEXT, "questions": asked}) + "\n", "utf-8")
    batch = tmp_path / "batch.jsonl"
    batch.write_text('{"question": "Who founded the abbey?"}\n{"question": "What does the bell weigh?"}\n', "utf-8")
    model, out = ["--model", str(tiny_directory)], str(tmp_path / "out")
    commands = [
        ["--version"],
        ["--help"],
        ["models"],
        ["models", "--json"],
        ["recipes"],
        ["recipes", "show", "default"],
        ["plan", str(text), *model],
        ["absorb", str(text), "--name", "abbey", *model, *QUICK],
        ["absorb", str(markdown), "--name", "marked", *model, *QUICK],
        ["absorb", str(html), "--name", "page", *model, *QUICK],
        ["absorb", str(text), "--name", "portable", "--recipe", "portable", *model, *QUICK],
        ["list"],
        ["show", "abbey"],
        ["show", "abbey", "--source"],
        ["ask", "abbey", "Who founded the abbey?", *model],
        ["ask", "abbey", "--questions", str(batch), *model, "--json"],
        ["chat", "abbey", *model],
        ["rename", "marked", "renamed"],
        ["verify"],
        ["export", "portable", "--to", "peft", f"{out}-peft"],
        ["export", "portable", "--to", "vllm", f"{out}-vllm"],
        ["import", f"{out}-peft/adapters/*", "--name", "imported", *model],
        ["warm-start", "--memory", "portable", "--out", f"{out}-start"],
        ["evaluate", "qa", "--data", str(questions), "--methods", "bm25,full", "--out", out, *model],
        ["evaluate", "report", out],
        ["evaluate", "compare", out, out],
        ["bench", "limits", "--shape", "llama-8b", "--lengths", "8k"],
        ["remove", "renamed", "--yes"],
    ]
    done = subprocess.run(
        [sys.executable, "-c", DRIVER, json.dumps(commands)],
        env=guarded(tmp_path),
        input="What does the bell weigh?\n/quit\n",
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    statuses = [line for line in done.stderr.splitlines() if line.startswith("STATUS")]
    failed = [line for line in statuses if not line.startswith("STATUS 0 ")]
    assert len(statuses) == len(commands) and not failed, done.stderr[-4000:]
    assert not attempts(tmp_path)


def test_the_guard_sees_who_asks_for_the_network(tmp_path: Path) -> None:
    commands = [["pull", "somebody/something"]]
    subprocess.run(
        [sys.executable, "-c", DRIVER, json.dumps(commands)], env=guarded(tmp_path), capture_output=True, check=False
    )
    assert "huggingface.co" in attempts(tmp_path)


@pytest.mark.slow  # a server with its worker, as processes
def test_a_server_opens_no_connection_and_logs_no_text(tmp_path: Path, tiny_directory: Path) -> None:
    command = [sys.executable, "-c", "from lift.cli import main; main()", "serve", "--port", "0", "--json"]
    with (tmp_path / "server.log").open("wb") as log:
        server = subprocess.Popen(
            [*command, "--model", str(tiny_directory)], env=guarded(tmp_path), stdout=subprocess.PIPE, stderr=log
        )
    try:
        assert server.stdout is not None
        url = json.loads(server.stdout.readline())["url"]
        with loopback.Client(base_url=url, timeout=120) as http:
            files = {"file": ("quorvane-notes.txt", TEXT.encode())}
            file = http.post("/v1/files", data={"purpose": "fine-tune"}, files=files).json()["id"]
            assert http.post("/api/plan", json={"file_id": file, "title": "Quorvane"}).status_code == 200
            order = {
                "model": tiny_directory.name,
                "training_file": file,
                "suffix": "quorvane",
                "metadata": {"title": "Quorvane"},
                "hyperparameters": {"n_epochs": 1},
            }
            job = http.post("/v1/fine_tuning/jobs", json=order).json()["id"]
            until = time.monotonic() + 180
            while (told := http.get(f"/api/jobs/{job}").json())["status"] in ("queued", "running"):
                assert time.monotonic() < until
                time.sleep(0.2)
            assert told["status"] == "succeeded", told
            for context in ("none", "evidence", "auto"):
                said = [{"role": "user", "content": "How many zinnober goblets has Quorvane Abbey?"}]
                body = {"model": "quorvane", "messages": said, "context": context}
                assert http.post("/v1/chat/completions", json=body).status_code == 200
            http.post("/v1/chat/completions", json={"model": "goblet", "messages": "goblet"})
            http.post("/v1/files", data={"purpose": "fine-tune"}, files={"file": ("goblet.bin", b"\0goblet\1" * 99)})
            http.get("/goblet?goblet=1")
            assert http.get("/readyz").status_code == 200
    finally:
        server.terminate()
        assert server.wait(60) == 0
    told = (tmp_path / "server.log").read_text("utf-8").lower()
    assert '"event": "request"' in told
    assert not [secret for secret in SECRETS if secret in told], told
    assert not attempts(tmp_path)


def test_telemetry_is_off_unless_the_user_has_said_otherwise() -> None:
    environment = {"DO_NOT_TRACK": "0"}
    switch_off_telemetry(environment)
    assert environment["DO_NOT_TRACK"] == "0"
    assert environment["HF_HUB_DISABLE_TELEMETRY"] == environment["DISABLE_TELEMETRY"] == "1"
    program = "import os, lift; print(os.environ['HF_HUB_DISABLE_TELEMETRY'], os.environ['DO_NOT_TRACK'])"
    bare: Mapping[str, str] = {"PYTHONPATH": str(SOURCE), "PATH": os.environ["PATH"]}
    told = subprocess.run([sys.executable, "-c", program], env=bare, capture_output=True, text=True, check=True)
    assert told.stdout.split() == ["1", "1"]


def test_a_reader_can_ask_nobody(tmp_path: Path) -> None:
    program = (
        "import socket, subprocess\n"
        "from lift.documents.reader_process import forbid_network\n"
        "forbid_network()\n"
        "for act in (lambda: socket.create_connection(('127.0.0.1', 1)), lambda: socket.getaddrinfo('localhost', 1),\n"
        "            lambda: subprocess.run(['true'])):\n"
        "    try:\n"
        "        act()\n"
        "    except PermissionError as error:\n"
        "        print('refused')\n"
    )
    told = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert told.stdout.split() == ["refused"] * 3
