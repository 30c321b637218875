"""Connections: whoever says little, says it slowly or reads nothing holds no place for long, and others are served."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import loopback
import pytest
from live_server import Live, ScriptedEngine, answer, eventually, serving

from lift.models.base_model import BaseModel

ASK = {"model": "tiny", "messages": [{"role": "user", "content": "Who?"}]}
PLACES = 20


@pytest.fixture
def live(tiny_model: BaseModel, tmp_path: Path) -> Iterator[Live]:
    with serving(
        tiny_model,
        tmp_path / "library",
        engine=ScriptedEngine(tiny_model),
        connections=PLACES,
        header_s=0.5,
        body_silence_s=1.0,
        write_silence_s=1.0,
    ) as server:
        yield server


def connected(live: Live) -> socket.socket:
    address = urlsplit(live.url)
    assert address.hostname is not None and address.port is not None
    return socket.create_connection((address.hostname, address.port), timeout=30)


def said(connection: socket.socket) -> bytes:
    """All that the server says until it closes the connection."""
    told = b""
    try:
        while piece := connection.recv(65536):
            told += piece
    except ConnectionResetError:
        pass
    return told


def test_a_connection_without_a_request_is_ended(live: Live) -> None:
    with closing(connected(live)) as silent:
        assert said(silent).startswith(b"HTTP/1.1 408 ")


def test_a_header_that_comes_byte_by_byte_is_ended(live: Live) -> None:
    with closing(connected(live)) as slow:
        slow.settimeout(0.1)
        told = b""
        for byte in b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n" + b"X-Slow: 1\r\n" * 1000:
            try:
                slow.send(bytes([byte]))
                told += slow.recv(65536)
            except TimeoutError:
                continue
            except OSError:
                break
            break
        status, _, body = told.partition(b"\r\n\r\n")
        assert status.startswith(b"HTTP/1.1 408 ")
        assert json.loads(body)["error"]["code"] == "timeout"


def test_a_body_that_does_not_come_is_ended_and_a_slow_one_is_taken(live: Live) -> None:
    head = b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    with closing(connected(live)) as slow:
        slow.sendall(head + b"Content-Length: 100000\r\n\r\n{")
        assert said(slow).startswith(b"HTTP/1.1 408 ")

    def pieces() -> Iterator[bytes]:
        yield from form[:-1]
        for _ in range(10):  # takes more than twice what may pass in silence
            yield b"Ada Quill keeps the museum. " * 1000
            time.sleep(0.25)
        yield form[-1]

    form = [
        b'--x\r\nContent-Disposition: form-data; name="purpose"\r\n\r\nfine-tune\r\n',
        b'--x\r\nContent-Disposition: form-data; name="file"; filename="a.txt"\r\n\r\n',
        b"\r\n--x--\r\n",
    ]
    kind = {"Content-Type": "multipart/form-data; boundary=x"}
    taken = loopback.post(f"{live.url}/v1/files", content=pieces(), headers=kind, timeout=60)
    assert (taken.status_code, taken.json()["bytes"]) == (200, 280_000)


def test_an_answer_that_nobody_reads_is_ended(live: Live) -> None:
    size_bytes = 30_000_000
    stored = live.store.add_file("a.txt", "fine-tune", b"a" * size_bytes, size_bytes)
    with closing(connected(live)) as deaf:
        deaf.sendall(f"GET /v1/files/{stored.id}/content HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
        time.sleep(3)
        assert len(said(deaf)) < size_bytes


def test_a_connection_is_kept_for_the_next_request_longer_than_a_header_may_take(live: Live) -> None:
    with loopback.Client(base_url=live.url) as client:
        used = []
        for _ in range(3):
            with client.stream("GET", "/healthz") as response:
                used.append(response.extensions["network_stream"].get_extra_info("client_addr"))
                response.read()
            time.sleep(0.8)
        assert len(set(used)) == 1


def test_a_refused_body_does_not_hold_the_connection(live: Live) -> None:
    head = b"POST /v1/files HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9000000000\r\n\r\n"
    with closing(connected(live)) as endless:
        endless.sendall(head)
        told = said(endless)
        assert told.startswith(b"HTTP/1.1 413 ")


def test_a_header_has_a_largest_size(live: Live) -> None:
    with closing(connected(live)) as large:
        large.sendall(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nX-Large: " + b"x" * 60_000)
        assert said(large).startswith(b"HTTP/1.1 400 ")


def test_those_who_ask_nothing_make_room_for_those_who_do(live: Live) -> None:
    with ExitStack() as stack:
        for _ in range(3 * PLACES):
            idle = stack.enter_context(closing(connected(live)))
            idle.sendall(b"GET /")
        assert loopback.get(f"{live.url}/healthz", timeout=30).status_code == 200


def test_where_all_are_served_others_are_told_to_come_back(live: Live) -> None:
    with ExitStack() as stack:
        clients = [stack.enter_context(loopback.Client(base_url=live.url, timeout=30)) for _ in range(PLACES)]
        for number, client in enumerate(clients, 1):
            live.engine.refusal = None
            stack.enter_context(_asking(client))
            eventually(lambda number=number: len(live.engine.taken) == number)
        refused = loopback.get(f"{live.url}/healthz", timeout=30)
        assert refused.status_code == 503 and int(refused.headers["Retry-After"]) >= 1
        assert refused.json()["error"]["code"] == "too_many_connections"
        for handle in live.engine.taken:
            answer(handle, "Ada")
    assert loopback.get(f"{live.url}/healthz", timeout=30).status_code == 200


def _asking(client: httpx.Client) -> ExitStack:
    """A question whose answer is awaited in a thread until the block ends."""
    import threading

    stack = ExitStack()
    asking = threading.Thread(target=lambda: client.post("/v1/chat/completions", json=ASK))
    asking.start()
    stack.callback(asking.join, 30)
    return stack


def test_the_limit_of_open_files_bounds_the_connections() -> None:
    program = (
        "import resource; resource.setrlimit(resource.RLIMIT_NOFILE, (64, 300)); "
        "from lift.server.bounded_connections import allow_open_files; "
        "print(allow_open_files(1000), allow_open_files(20), resource.getrlimit(resource.RLIMIT_NOFILE))"
    )
    told = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout
    assert told.strip() == "44 20 (300, 300)"
