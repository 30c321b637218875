"""A fine-tuning vendor on loopback that follows the published shapes of OpenAI's endpoint, with faults on demand.

    POST /v1/files                          GET /v1/files/{id}
    POST /v1/fine_tuning/jobs               GET /v1/fine_tuning/jobs?limit&after        (newest first)
    GET  /v1/fine_tuning/jobs/{id}          GET /v1/fine_tuning/jobs/{id}/events?limit&after   (newest first)
    POST /v1/fine_tuning/jobs/{id}/cancel   POST /v1/chat/completions                   GET /v1/models[/{id}]

A job moves on by one stage of `stages` each time it is looked at.
"""

from __future__ import annotations

import json
import re
import socket
import struct
import threading
import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from email.parser import BytesParser
from email.policy import HTTP
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self
from urllib.parse import parse_qs, urlsplit

KEY = "sk-scripted-0123456789"
MODEL = "gpt-3.5-turbo-0125"
RUNNING = [{"step": 1, "train_loss": 2.5, "train_mean_token_accuracy": 0.4}, {"step": 2, "train_loss": 1.25}]
STAGES: list[tuple[str, list[Any]]] = [
    ("validating_files", ["Validating training file"]),
    ("queued", []),
    ("running", ["Fine-tuning job started", *RUNNING]),
    ("succeeded", ["The job has successfully completed"]),
]


@dataclass(frozen=True)
class Fault:
    """What a request meets instead of its answer.

    `done`: the request is carried out first, and only its reply is lost. `reset` breaks the connection, `delay_s` lets
    the caller wait, `body` may be anything.
    """

    status: int = 200
    body: Any = b""
    headers: dict[str, str] = field(default_factory=dict)
    delay_s: float = 0.0
    reset: bool = False
    done: bool = False


def problem(
    message: str, code: str | None = None, param: str | None = None, kind: str = "invalid_request_error"
) -> Any:
    """An error body of the published shape."""
    return {"error": {"message": message, "type": kind, "param": param, "code": code}}


class ScriptedVendor:
    """The server, and what it has been asked."""

    def __init__(self, page_limit: int = 100, newest_first: bool = True) -> None:
        self.files: dict[str, dict[str, Any]] = {}
        self.contents: dict[str, bytes] = {}
        self.jobs: dict[str, dict[str, Any]] = {}
        self.events: dict[str, list[dict[str, Any]]] = defaultdict(list)
        self.asked: list[str] = []
        self.chats: list[dict[str, Any]] = []
        self.stages = list(STAGES)
        self.job_problem: dict[str, Any] | None = None
        self.file_changes: dict[str, Any] = {}
        self.keeps_metadata = True
        self.answer: Callable[[str], str] = lambda _prompt: "an answer"
        self.window_chars = 10**9
        self.page_limit = page_limit
        self.newest_first = newest_first
        self._faults: dict[str, list[Fault]] = defaultdict(list)
        self._stage_of: dict[str, int] = {}
        self._lock = threading.Lock()
        vendor = self

        class Handler(_Handler):
            def serve(self, method: str) -> None:
                vendor._serve(self, method)

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_port}/v1"

    def __enter__(self) -> Self:
        threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    def fail(self, route: str, *faults: Fault) -> None:
        """Let the next requests to `route` ("POST /files", "GET /fine_tuning/jobs/ID") meet these, one each."""
        self._faults[route] += faults

    def cancel(self, job_id: str) -> None:
        """Cancel a job from elsewhere."""
        self.jobs[job_id]["status"] = "cancelled"

    @property
    def paid_jobs(self) -> int:
        """Jobs that were created and not cancelled or failed."""
        return sum(job["status"] not in ("failed", "cancelled") for job in self.jobs.values())

    def _serve(self, handler: _Handler, method: str) -> None:
        url = urlsplit(handler.path)
        path = url.path.removeprefix("/v1")
        query = {key: values[0] for key, values in parse_qs(url.query).items()}
        body = handler.rfile.read(int(handler.headers.get("Content-Length") or 0))
        route = f"{method} {re.sub(r'(ftjob|file)-[0-9]+', 'ID', path)}"
        with self._lock:
            self.asked.append(route)
            fault = self._faults[route].pop(0) if self._faults[route] else None
            if handler.headers.get("Authorization") != f"Bearer {KEY}":
                said = f"Incorrect API key provided: {handler.headers.get('Authorization')}"
                status, reply = 401, problem(said, "invalid_api_key")
            elif fault is None or fault.done:
                status, reply = self._answer(method, path, query, body, handler.headers.get("Content-Type", ""))
        if fault is None:
            handler.reply(status, reply)
            return
        time.sleep(fault.delay_s)
        if fault.reset:
            handler.reset()
        elif fault.done and fault.status == 200 and not fault.body:
            handler.reply(status, reply)
        else:
            handler.reply(fault.status, fault.body, fault.headers)

    def _answer(self, method: str, path: str, query: dict[str, str], body: bytes, kind: str) -> tuple[int, Any]:
        parts = path.strip("/").split("/")
        match method, *parts:
            case "POST", "files":
                return self._take_file(body, kind)
            case "GET", "files", file_id:
                return _found(self.files.get(file_id), f"No such File object: {file_id}")
            case "POST", "fine_tuning", "jobs":
                return self._create(json.loads(body))
            case "GET", "fine_tuning", "jobs":
                return 200, self._page([self._shown(job) for job in reversed(self.jobs.values())], query)
            case "GET", "fine_tuning", "jobs", job_id:
                if job_id in self.jobs:
                    self._move_on(job_id)
                return _found(self.jobs.get(job_id), f"Could not find fine tune: {job_id}")
            case "GET", "fine_tuning", "jobs", job_id, "events":
                events = self.events[job_id]
                return 200, self._page(events[::-1] if self.newest_first else events, query)
            case "POST", "fine_tuning", "jobs", job_id, "cancel":
                return self._cancel(job_id)
            case "POST", "chat", "completions":
                return self._chat(json.loads(body))
            case "GET", "models":
                return 200, {"object": "list", "data": [{"id": MODEL, "object": "model", "owned_by": "scripted"}]}
            case "GET", "models", name:
                model = {"id": name, "object": "model", "owned_by": "scripted"}
                return _found(model if name == MODEL else None, f"The model '{name}' does not exist")
        return 404, problem(f"Invalid URL ({method} {path})")

    def _take_file(self, body: bytes, kind: str) -> tuple[int, Any]:
        message = BytesParser(policy=HTTP).parsebytes(b"Content-Type: " + kind.encode() + b"\r\n\r\n" + body)
        fields = {part.get_param("name", header="content-disposition"): part for part in message.iter_parts()}
        purpose = fields["purpose"].get_payload(decode=True).strip()
        if purpose != b"fine-tune":
            return 400, problem(f"'{purpose.decode()}' is not one of the purposes", param="purpose")
        content = fields["file"].get_payload(decode=True)
        file_id = f"file-{len(self.files) + 1}"
        self.contents[file_id] = content
        self.files[file_id] = {
            "id": file_id,
            "object": "file",
            "bytes": len(content),
            "created_at": 1_700_000_000,
            "filename": fields["file"].get_filename(),
            "purpose": "fine-tune",
            "status": "processed",
            **self.file_changes,
        }
        return 200, self.files[file_id]

    def _create(self, asked: dict[str, Any]) -> tuple[int, Any]:
        if asked["model"] != MODEL:
            said = f"The model `{asked['model']}` does not exist or is not available for fine-tuning"
            return 400, problem(said, "model_not_found", "model")
        if asked["training_file"] not in self.files:
            return 400, problem(f"invalid training_file: {asked['training_file']}", "file_not_found", "training_file")
        job_id = f"ftjob-{len(self.jobs) + 1}"
        self.jobs[job_id] = {
            "id": job_id,
            "object": "fine_tuning.job",
            "created_at": 1_700_000_000 + len(self.jobs),
            "model": asked["model"],
            "status": "validating_files",
            "training_file": asked["training_file"],
            "validation_file": None,
            "fine_tuned_model": None,
            "organization_id": "org-scripted",
            "result_files": [],
            "seed": asked.get("seed", 0),
            "trained_tokens": None,
            "error": {"code": None, "message": None, "param": None},
            "hyperparameters": asked["method"]["supervised"]["hyperparameters"],
            "method": asked["method"],
            "user_provided_suffix": asked.get("suffix"),
            "metadata": asked.get("metadata"),
        }
        self._stage_of[job_id] = -1
        self._log(job_id, f"Created fine-tuning job: {job_id}")
        return 200, self._shown(self.jobs[job_id])

    def _shown(self, job: dict[str, Any]) -> dict[str, Any]:
        hidden = () if self.keeps_metadata else ("metadata", "user_provided_suffix")
        return {key: value for key, value in job.items() if key not in hidden}

    def _move_on(self, job_id: str) -> None:
        job = self.jobs[job_id]
        if job["status"] in ("succeeded", "failed", "cancelled") or self._stage_of[job_id] + 1 >= len(self.stages):
            return
        self._stage_of[job_id] += 1
        job["status"], said = self.stages[self._stage_of[job_id]]
        for each in said:
            self._log(job_id, each)
        if job["status"] == "succeeded":
            suffix = job["user_provided_suffix"]
            job["fine_tuned_model"] = f"ft:{job['model']}:scripted:{suffix}:{job_id.replace('ftjob-', 'X')}"
            job["trained_tokens"] = 1234
        if job["status"] == "failed":
            job["error"] = self.job_problem

    def _log(self, job_id: str, said: Any) -> None:
        number = len(self.events[job_id])
        metrics = said if isinstance(said, dict) else None
        self.events[job_id].append(
            {
                "id": f"ftevent-{number}",
                "object": "fine_tuning.job.event",
                "created_at": 1_700_000_000 + (number + 1) // 2,
                "level": "info",
                "message": f"Step {said['step']}: training loss={said['train_loss']}" if metrics else said,
                "type": "metrics" if metrics else "message",
                "data": metrics or {},
            }
        )

    def _cancel(self, job_id: str) -> tuple[int, Any]:
        job = self.jobs.get(job_id)
        if job and job["status"] in ("succeeded", "failed", "cancelled"):
            return 400, problem(f"Job has already completed: {job_id}")
        if job:
            job["status"] = "cancelled"
        return _found(job, f"Could not find fine tune: {job_id}")

    def _chat(self, asked: dict[str, Any]) -> tuple[int, Any]:
        if asked["model"] not in [job["fine_tuned_model"] for job in self.jobs.values()]:
            return 404, problem(f"The model `{asked['model']}` does not exist", "model_not_found", "model")
        prompt = asked["messages"][-1]["content"]
        if len(prompt) > self.window_chars:
            return 400, problem(
                "This model's maximum context length is exceeded", "context_length_exceeded", "messages"
            )
        self.chats.append(asked)
        message = {"role": "assistant", "content": self.answer(prompt)}
        return 200, {
            "id": "chatcmpl-1",
            "object": "chat.completion",
            "created": 1_700_000_000,
            "model": asked["model"],
            "choices": [{"index": 0, "message": message, "finish_reason": "stop"}],
            "usage": {"prompt_tokens": 77, "completion_tokens": 3, "total_tokens": 80},
        }

    def _page(self, rows: list[dict[str, Any]], query: dict[str, str]) -> dict[str, Any]:
        ids = [row["id"] for row in rows]
        start = ids.index(query["after"]) + 1 if "after" in query else 0
        limit = min(int(query.get("limit", 20)), self.page_limit)
        return {"object": "list", "data": rows[start : start + limit], "has_more": start + limit < len(rows)}


def _found(row: dict[str, Any] | None, otherwise: str) -> tuple[int, Any]:
    return (200, row) if row is not None else (404, problem(otherwise))


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    wbufsize = -1  # one packet a reply: the second of two would wait for the first one's acknowledgement

    def serve(self, method: str) -> None:
        """Answer one request."""
        raise NotImplementedError

    def do_GET(self) -> None:
        self.serve("GET")

    def do_POST(self) -> None:
        self.serve("POST")

    def reply(self, status: int, body: Any, headers: dict[str, str] | None = None) -> None:
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        try:
            self.send_response(status)
            for name, value in {"Content-Type": "application/json", **(headers or {})}.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)
        except OSError:
            self.close_connection = True  # the caller did not wait

    def reset(self) -> None:
        """Break the connection so that the caller sees a reset."""
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.close_connection = True

    def log_message(self, *_: object) -> None:
        """Say nothing."""
