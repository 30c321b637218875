"""What keeps a shared server safe: keys, scopes, limits, names, sizes, hosts, pages elsewhere, and silent logs."""

from __future__ import annotations

import errno
import io
import json
import logging
import os
import signal
import socket
import stat
import subprocess
import sys
import threading
import zipfile
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import httpx
import loopback
import pytest
from hypothesis import given
from hypothesis import strategies as st
from live_server import TEXT, Lines, Live, ScriptedEngine, answer, eventually, put_memory, serving

import lift.cli
from lift.documents.encoding import decode
from lift.errors import UsageError
from lift.models.base_model import BaseModel
from lift.server.keys import Key, KeyFile, add_key, read_keys
from lift.server.listening import open_socket
from lift.server.logs import JsonLines
from lift.server.rate_limits import RateLimits, TooMuch
from lift.server.settings import ServerSettings, is_loopback
from lift.serving.request import TextDelta

ASK = {"model": "tiny", "messages": [{"role": "user", "content": "Who?"}]}
# One request for each scope, which no other scope may make.
BY_SCOPE = {
    "read": ("GET", "/v1/models", None),
    "ask": ("POST", "/v1/chat/completions", {**ASK, "temperature": 9}),
    "absorb": ("POST", "/v1/fine_tuning/jobs", {"model": "tiny", "training_file": "file-0"}),
    "admin": ("DELETE", "/v1/models/nothing", None),
}


@pytest.fixture
def live(tiny_model: BaseModel, tmp_path: Path) -> Iterator[Live]:
    """A server for everybody, whose answers are given by hand."""
    with serving(
        tiny_model, tmp_path / "library", engine=ScriptedEngine(tiny_model), max_upload_bytes=20_000
    ) as server:
        put_memory(server.library, tiny_model, "quill")
        yield server


def kept(key_file: Path, *scopes: str, name: str = "anna", **limits: int) -> dict[str, str]:
    """The header of a new key."""
    return {"Authorization": f"Bearer {add_key(key_file, name, scopes, **limits)}"}


def test_without_a_known_key_nothing_but_the_page_and_health_is_answered(tiny_model: BaseModel, tmp_path: Path) -> None:
    key_file = tmp_path / "keys.jsonl"
    good = kept(key_file, "read")
    with serving(tiny_model, tmp_path / "library", key_file=key_file) as live, loopback.Client() as http:
        paths = http.get(f"{live.url}/openapi.json", headers=good).json()["paths"]
        for path in ("/openapi.json", *paths):
            for method in paths.get(path, {"get": None}):
                for header in ({}, {"Authorization": "Bearer lift-guessed"}, {"Authorization": "Basic abc"}):
                    refused = http.request(method, live.url + path.replace("{", "").replace("}", ""), headers=header)
                    if path in ("/healthz", "/readyz"):
                        assert refused.status_code == 200
                        continue
                    assert refused.status_code == 401, (method, path)
                    assert refused.json()["error"]["type"] == "authentication_error"
                    assert refused.headers["www-authenticate"] == "Bearer"
        for path in ("/", "/static/app.js", "/healthz", "/readyz"):
            assert loopback.get(live.url + path).status_code == 200


@pytest.mark.parametrize("scope", ["read", "ask", "absorb", "admin"])
def test_a_key_may_do_what_its_scope_says_and_no_more(tiny_model: BaseModel, tmp_path: Path, scope: str) -> None:
    key_file = tmp_path / "keys.jsonl"
    header = kept(key_file, scope)
    with serving(tiny_model, tmp_path / "library", key_file=key_file) as live:
        for wanted, (method, path, body) in BY_SCOPE.items():
            said = loopback.request(method, live.url + path, json=body, headers=header)
            allowed = scope in (wanted, "admin")
            assert (said.status_code != 403) == allowed, (wanted, said.text)
            if not allowed:
                assert said.json()["error"]["code"] == "missing_scope" and wanted in said.json()["error"]["message"]


@pytest.mark.parametrize(
    ("scope", "priority", "status"),
    [("absorb", "5", 403), ("absorb", "-5", 403), ("admin", "5", 200), ("absorb", "0", 200)],
)
def test_a_job_is_put_before_others_by_admins_alone(
    tiny_model: BaseModel, tmp_path: Path, scope: str, priority: str, status: int
) -> None:
    key_file, engine = tmp_path / "keys.jsonl", ScriptedEngine(tiny_model)
    header = kept(key_file, scope)
    with serving(tiny_model, tmp_path / "library", key_file=key_file, engine=engine) as live:
        file = live.store.add_file("m.md", "fine-tune", b"Ada Quill founded the museum.", 10_000, owner="anna")
        body = {"model": "tiny", "training_file": file.id, "metadata": {"priority": priority}}
        said = loopback.post(f"{live.url}/v1/fine_tuning/jobs", json=body, headers=header)
        assert said.status_code == status, said.text
        assert len(live.store.jobs()) == (status == 200)
        if status == 403:
            assert said.json()["error"]["code"] == "missing_scope" and "admin" in said.json()["error"]["message"]


def test_every_route_is_for_one_scope_or_for_admins(tiny_model: BaseModel, tmp_path: Path) -> None:
    key_file, engine = tmp_path / "keys.jsonl", ScriptedEngine(tiny_model)
    headers = {scope: kept(key_file, scope, name=scope) for scope in ("read", "ask", "absorb", "admin")}
    with (
        serving(tiny_model, tmp_path / "library", key_file=key_file, engine=engine) as live,
        loopback.Client() as http,
    ):
        paths = http.get(f"{live.url}/openapi.json", headers=headers["read"]).json()["paths"]
        for path, operations in paths.items():
            for method in operations.keys() if path not in ("/healthz", "/readyz") else ():
                url = live.url + path.replace("{", "").replace("}", "")
                may = {
                    scope
                    for scope, header in headers.items()
                    if http.request(method, url, headers=header).status_code != 403
                }
                assert "admin" in may and len(may) <= 2, (method, path, may)
                changes = method in ("delete", "patch") and not path.startswith("/v1/files")
                assert (may == {"admin"}) == changes, (method, path, may)


def test_only_the_hash_of_a_key_is_kept_and_for_its_owner_alone(tmp_path: Path) -> None:
    key_file = tmp_path / "keys.jsonl"
    secret = add_key(key_file, "anna", ["read", "ask"], requests_per_minute=5)
    assert secret not in key_file.read_text("utf-8") and len(secret) > 40
    assert stat.S_IMODE(key_file.stat().st_mode) == 0o600
    found = KeyFile(key_file).find(secret)
    assert found is not None and found.scopes == {"read", "ask"} and found.requests_per_minute == 5
    assert add_key(key_file, "bob", ["admin"]) != secret
    assert [key.name for key in read_keys(key_file)] == ["anna", "bob"]
    for name, scopes in (("anna", ["read"]), ("a b", ["read"]), ("carl", ["write"]), ("carl", [])):
        with pytest.raises(UsageError):
            add_key(key_file, name, scopes)
    assert len(read_keys(key_file)) == 2


def test_keys_are_read_again_when_their_file_changes(tmp_path: Path) -> None:
    key_file = tmp_path / "keys.jsonl"
    anna = add_key(key_file, "anna", ["read"])
    keys = KeyFile(key_file)
    bob = add_key(key_file, "bob", ["read"])
    assert keys.find(bob) is not None
    key_file.write_text("".join(line for line in key_file.open(encoding="utf-8") if "anna" not in line), "utf-8")
    assert keys.find(anna) is None and keys.find(bob) is not None
    key_file.write_text("{broken\n", "utf-8")
    with pytest.raises(UsageError, match="line 1"):
        keys.find(bob)


@pytest.mark.parametrize(
    "line",
    [
        "[]",
        '{"name": "a"}',
        '{"name": "a", "sha256": "12", "scopes": ["read"]}',
        f'{{"name": "a", "sha256": "{"0" * 64}", "scopes": ["all"]}}',
        f'{{"name": "a", "sha256": "{"0" * 64}", "scopes": ["read"], "concurrent": 0}}',
        f'{{"name": "a", "sha256": "{"0" * 64}", "scopes": ["read"], "key": "plain"}}',
    ],
)
def test_a_wrong_line_of_a_key_file_is_named(tmp_path: Path, line: str) -> None:
    key_file = tmp_path / "keys.jsonl"
    key_file.write_text(f"\n{line}\n", "utf-8")
    with pytest.raises(UsageError, match="line 2"):
        read_keys(key_file)


def test_a_server_without_any_key_does_not_start(tmp_path: Path) -> None:
    (tmp_path / "keys.jsonl").write_text("\n", "utf-8")
    with pytest.raises(UsageError, match="at least one key"):
        KeyFile(tmp_path / "keys.jsonl")
    with pytest.raises(UsageError, match="--new-key"):
        KeyFile(tmp_path / "none.jsonl")


def test_a_key_asks_no_more_often_than_it_may(tiny_model: BaseModel, tmp_path: Path) -> None:
    key_file = tmp_path / "keys.jsonl"
    slow, other = kept(key_file, "read", requests_per_minute=3), kept(key_file, "read", name="bob")
    with serving(tiny_model, tmp_path / "library", key_file=key_file) as live:
        statuses = [loopback.get(f"{live.url}/v1/models", headers=slow) for _ in range(4)]
        assert [said.status_code for said in statuses] == [200, 200, 200, 429]
        assert 1 <= int(statuses[-1].headers["retry-after"]) <= 20
        assert loopback.get(f"{live.url}/v1/models", headers=other).status_code == 200


def test_a_key_has_no_more_requests_running_than_it_may(tiny_model: BaseModel, tmp_path: Path) -> None:
    key_file, engine = tmp_path / "keys.jsonl", ScriptedEngine(tiny_model)
    header = kept(key_file, "ask", concurrent=1)
    said: list[httpx.Response] = []
    with serving(tiny_model, tmp_path / "library", key_file=key_file, engine=engine) as live:
        url = f"{live.url}/v1/chat/completions"
        asking = threading.Thread(target=lambda: said.append(loopback.post(url, json=ASK, headers=header, timeout=60)))
        asking.start()
        handle = engine.wait_for(1)[0]
        refused = loopback.post(url, json=ASK, headers=header)
        assert refused.status_code == 429 and refused.json()["error"]["code"] == "too_many_at_once"
        answer(handle, "done")
        asking.join(30)
        assert said[0].status_code == 200
        threading.Thread(target=lambda: answer(engine.wait_for(2)[1], "again")).start()
        assert loopback.post(url, json=ASK, headers=header, timeout=60).status_code == 200


@given(
    per_minute=st.integers(1, 100),
    waits=st.lists(st.floats(0, 100, allow_nan=False), min_size=1, max_size=60),
)
def test_no_key_ever_has_more_than_its_minutes_allow(per_minute: int, waits: list[float]) -> None:
    now = 0.0
    limits = RateLimits(per_minute, 1, now=lambda: now)
    key = Key("anna", "0" * 64, frozenset(["read"]))
    for granted, wait in enumerate(waits, 1):
        now += wait
        try:
            limits.enter(key)
        except TooMuch as refused:
            now += refused.retry_after_s + 1e-6
            limits.enter(key)  # it was told when, and then it may
        limits.leave(key, 0.0)
        assert granted <= per_minute * (1 + now / 60) + 1e-6


@pytest.mark.parametrize(
    "host", ["museum.example", "museum.example:8000", "127.0.0.1.museum.example", "", "[::", "0.0.0.0"]
)
def test_a_server_on_loopback_goes_by_no_other_name(live: Live, host: str) -> None:
    said = loopback.get(f"{live.url}/api/memories", headers={"Host": host})
    assert said.status_code == 403 and said.json()["error"]["code"] == "wrong_host"


def test_a_server_goes_by_the_names_it_is_given(tiny_model: BaseModel, tmp_path: Path) -> None:
    with serving(tiny_model, tmp_path / "library", allowed_hosts=("Museum.example",)) as live:
        for host, status in (
            ("museum.example", 200),
            ("museum.example:443", 200),
            ("localhost:1", 200),
            ("other", 403),
        ):
            assert loopback.get(f"{live.url}/v1/models", headers={"Host": host}).status_code == status


@pytest.mark.parametrize("origin", ["https://evil.example", "null", "http://localhost.evil.example"])
def test_a_page_elsewhere_can_change_nothing(live: Live, origin: str) -> None:
    header = {"Origin": origin}
    upload = {"files": {"file": ("a.txt", b"text")}, "data": {"purpose": "fine-tune"}}
    assert loopback.post(f"{live.url}/v1/files", headers=header, **upload).status_code == 403  # type: ignore[arg-type]
    assert loopback.delete(f"{live.url}/api/memories/quill", headers=header).status_code == 403
    read = loopback.get(f"{live.url}/v1/models", headers=header)
    assert "access-control-allow-origin" not in read.headers
    assert loopback.delete(f"{live.url}/api/memories/quill", headers={"Origin": live.url}).status_code == 200


def test_a_page_that_is_allowed_may_ask(tiny_model: BaseModel, tmp_path: Path) -> None:
    page = "https://chat.example"
    with serving(tiny_model, tmp_path / "library", cors_origins=(page,)) as live:
        before = httpx.options(
            f"{live.url}/v1/chat/completions",
            headers={"Origin": page, "Access-Control-Request-Method": "POST"},
        )
        assert before.headers["access-control-allow-origin"] == page
        asked = loopback.post(f"{live.url}/v1/chat/completions", json=ASK, headers={"Origin": page}, timeout=60)
        assert asked.status_code == 200 and asked.headers["access-control-allow-origin"] == page
        other = loopback.get(f"{live.url}/v1/models", headers={"Origin": "https://evil.example"})
        assert "access-control-allow-origin" not in other.headers


# What the official JavaScript client sends from a browser, by version 6.49: of its own, and of its helpers.
JAVASCRIPT_CLIENT = (
    "authorization,content-type,idempotency-key,openai-beta,openai-organization,openai-project,x-stainless-arch,"
    "x-stainless-custom-poll-interval,x-stainless-helper-method,x-stainless-lang,x-stainless-os,"
    "x-stainless-package-version,x-stainless-poll-helper,x-stainless-retry-count,x-stainless-runtime,"
    "x-stainless-runtime-version,x-stainless-timeout"
)


@pytest.mark.parametrize("headers", [JAVASCRIPT_CLIENT, "x-of-a-later-version"])
def test_a_client_in_an_allowed_page_may_send_headers_of_its_own(
    tiny_model: BaseModel, tmp_path: Path, headers: str
) -> None:
    page = "https://chat.example"
    with serving(tiny_model, tmp_path / "library", cors_origins=(page,)) as live:
        for origin, status in ((page, 200), ("https://evil.example", 400), ("null", 400)):
            asked = {
                "Origin": origin,
                "Access-Control-Request-Method": "POST",
                "Access-Control-Request-Headers": headers,
                "Access-Control-Request-Private-Network": "true",
            }
            said = httpx.options(f"{live.url}/v1/chat/completions", headers=asked)
            assert (said.status_code, said.headers.get("access-control-allow-origin")) == (
                status,
                page if status == 200 else None,
            )
            if status == 200:
                allowed = said.headers["access-control-allow-headers"].lower().split(",")
                assert {each.strip() for each in allowed} >= set(headers.split(","))


def test_an_allowed_page_can_read_why_it_is_refused(tiny_model: BaseModel, tmp_path: Path) -> None:
    page, key_file = "https://chat.example", tmp_path / "keys.jsonl"
    kept(key_file, "read")
    with serving(tiny_model, tmp_path / "library", cors_origins=(page,), key_file=key_file) as live:
        refused = loopback.get(f"{live.url}/v1/models", headers={"Origin": page})
        assert (refused.status_code, refused.headers["access-control-allow-origin"]) == (401, page)


@pytest.mark.parametrize("path", ["/", "/static/app.js", "/v1/models", "/v1/nothing", "/healthz"])
def test_every_answer_keeps_the_browser_from_running_what_is_not_ours(live: Live, path: str) -> None:
    headers = loopback.get(live.url + path).headers
    policy = headers["content-security-policy"]
    assert policy.startswith("default-src 'none'; script-src 'self'; style-src 'self'")
    assert "unsafe" not in policy and "frame-ancestors 'none'" in policy
    assert headers["x-content-type-options"] == "nosniff" and headers["x-frame-options"] == "DENY"
    assert "server" not in headers


def test_a_request_keeps_its_id_and_gets_one_where_it_has_none(live: Live) -> None:
    url = f"{live.url}/healthz"
    assert loopback.get(url, headers={"X-Request-ID": "abc-1.2_3"}).headers["x-request-id"] == "abc-1.2_3"
    for bad in ("a b", "x" * 65, "<script>"):
        assert loopback.get(url, headers={"X-Request-ID": bad}).headers["x-request-id"] != bad
    assert len(loopback.get(url).headers["x-request-id"]) == 32


NO_NAMES = (
    "..%2f..%2fsecret",
    "%2e%2e",
    "..",
    ".absorbing",
    ".serve",
    "%2fetc%2fpasswd",
    "a%00b",
    "..%5c..",
    "C:%5Cx",
    "nul",
)


@pytest.mark.parametrize("rest", ["", "/document", "/export"])
def test_names_never_become_paths(live: Live, rest: str) -> None:
    (live.library.root.parent / "secret").mkdir(exist_ok=True)
    before = sorted(live.library.root.parent.rglob("*"))
    with loopback.Client() as client:
        for path in (path for name in NO_NAMES for path in (f"/api/memories/{name}{rest}", f"/v1/models/{name}")):
            # raw, since a client would tidy the dots away
            request = httpx.Request("GET", live.url)
            request.url = request.url.copy_with(raw_path=path.encode())
            assert client.send(request).status_code in (400, 404), path
            request.method = "DELETE"
            if not rest:
                assert client.send(request).status_code in (400, 404, 405), path
        assert client.patch(f"{live.url}/api/memories/quill", json={"name": "../secret"}).status_code == 400
    assert sorted(live.library.root.parent.rglob("*")) == before


def upload(live: Live, name: str, content: bytes) -> httpx.Response:
    return loopback.post(f"{live.url}/v1/files", files={"file": (name, content)}, data={"purpose": "fine-tune"})


@pytest.mark.parametrize("name", ["../../evil.txt", "/etc/passwd", "..\\..\\evil.txt", "a\nb.txt", "x" * 500])
def test_the_name_of_an_upload_is_a_label(live: Live, name: str) -> None:
    stored = upload(live, name, b"Ada Quill founded it.")
    assert stored.status_code == 200
    shown = stored.json()["filename"]
    assert "/" not in shown and "\\" not in shown and shown.isprintable() and len(shown) <= 200
    files = live.store.directory / "files"
    assert [path.name for path in files.iterdir()] == [stored.json()["id"]]
    saved = loopback.get(f"{live.url}/v1/files/{stored.json()['id']}/content")
    assert saved.headers["content-type"] == "application/octet-stream"
    assert saved.headers["content-disposition"].startswith("attachment")


def zipped(members: int) -> bytes:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        for number in range(members):
            archive.writestr(f"part{number}", "x")
    return packed.getvalue()


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("empty.txt", b""),
        ("page.txt", b"\x00\x01\x02\x03" * 500),
        ("image.pdf", b"\x89PNG\r\n\x1a\n" + b"x" * 100),
        ("program.md", b"\x7fELF" + b"x" * 100),
        ("misnamed.pdf", b"only text"),
        ("broken.docx", b"PK\x03\x04broken"),
        ("other.docx", zipped(3)),
    ],
)
def test_what_is_no_document_is_refused_by_its_bytes(live: Live, name: str, content: bytes) -> None:
    refused = upload(live, name, content)
    assert refused.status_code == 400 and refused.json()["error"]["code"] == "invalid_document"
    assert live.store.files() == []


def test_an_upload_is_judged_by_its_beginning_alone(
    tiny_model: BaseModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    decoded: list[int] = []

    def counted(data: bytes, *arguments: Any, **options: Any) -> str:
        decoded.append(len(data))
        return decode(data, *arguments, **options)

    monkeypatch.setattr("lift.documents.parse.decode", counted)
    text = ("Der Müller mahlte für die Stadt. " * 40_000).encode("cp1252")
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as packed:
        packed.writestr("[Content_Types].xml", "<Types/>")
        packed.writestr("word/document.xml", os.urandom(100_000))
    with serving(tiny_model, tmp_path / "library", engine=ScriptedEngine(tiny_model)) as live:
        assert upload(live, "mill.txt", text).json()["bytes"] == len(text)
        assert upload(live, "mill.docx", archive.getvalue()).status_code == 200
        assert upload(live, "mill.docx", b"PK\x03\x04" + b"\0" * 100_000).status_code == 400
        assert upload(live, "mill.txt", b"\0\1\2\3" * 100_000).status_code == 400
    assert decoded and max(decoded) <= 1 << 16


def test_bodies_have_a_largest_size(tiny_model: BaseModel, tmp_path: Path) -> None:
    limits: dict[str, Any] = {"max_upload_bytes": 5_000, "max_body_bytes": 3_000}
    with serving(tiny_model, tmp_path / "library", engine=ScriptedEngine(tiny_model), **limits) as live:
        assert upload(live, "a.txt", b"a " * 2_000).status_code == 200
        for size in (3_000, 200_000):
            assert upload(live, "a.txt", b"a " * size).status_code == 413
        assert len(live.store.files()) == 1
        large = json.dumps({**ASK, "user": "x" * 4_000}).encode()
        url, kind = f"{live.url}/v1/chat/completions", {"Content-Type": "application/json"}
        stated = loopback.post(url, content=large, headers=kind)
        # in chunks, so that nobody states how large it is
        streamed = loopback.post(url, content=iter([large[:100], large[100:]]), headers=kind)
        for refused in (stated, streamed):
            assert refused.status_code == 413 and "3,000" in refused.json()["error"]["message"]
        assert live.engine.taken == []


def test_uploads_have_a_largest_size_together(tiny_model: BaseModel, tmp_path: Path) -> None:
    with serving(tiny_model, tmp_path / "library", engine=ScriptedEngine(tiny_model), max_stored_bytes=5_000) as live:
        kept = upload(live, "a.txt", b"a " * 2_000).json()
        refused = upload(live, "b.txt", b"a " * 1_000)
        assert refused.status_code == 413 and "5,000 bytes together" in refused.json()["error"]["message"]
        assert loopback.delete(f"{live.url}/v1/files/{kept['id']}").status_code == 200
        assert upload(live, "b.txt", b"a " * 1_000).status_code == 200


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("begun", [False, True])
def test_an_answer_nobody_waits_for_is_given_up(live: Live, stream: bool, begun: bool) -> None:
    body = json.dumps({**ASK, "stream": stream, "n": 2}).encode()
    port = int(live.url.rpartition(":")[2])
    head = "POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    head += f"Content-Length: {len(body)}\r\n\r\n"
    with socket.create_connection(("127.0.0.1", port)) as connection:
        connection.sendall(head.encode() + body)
        handles = live.engine.wait_for(2)
        if begun:
            handles[0].put(TextDelta("begun"))
            if stream:
                assert b"200 OK" in connection.recv(200)
    eventually(lambda: all(handle.cancelled for handle in handles))


def test_a_stream_of_events_ends_when_the_server_does(tiny_model: BaseModel, tmp_path: Path) -> None:
    with serving(tiny_model, tmp_path / "library", engine=ScriptedEngine(tiny_model)) as live:
        file = live.store.add_file("m.md", "fine-tune", TEXT.encode(), 10_000)
        job = live.store.create(file.id)
        lines: list[str] = []

        def follow() -> None:
            with loopback.stream("GET", f"{live.url}/api/jobs/{job.id}/events", timeout=60) as response:
                lines.extend(response.iter_lines())

        following = threading.Thread(target=follow)
        following.start()
        eventually(lambda: live.app.state.parts is not None)
        live.app.state.parts.stopping.set()
        following.join(30)
        assert not following.is_alive()


def test_logs_tell_who_asked_and_never_what(tiny_model: BaseModel, tmp_path: Path) -> None:
    logger, heard = logging.getLogger("lift.server"), Lines(JsonLines())
    logger.addHandler(heard)
    before = logger.level
    logger.setLevel(logging.DEBUG)
    try:
        key_file, engine = tmp_path / "keys.jsonl", ScriptedEngine(tiny_model)
        header = kept(key_file, "admin")
        with serving(tiny_model, tmp_path / "library", engine=engine, key_file=key_file) as live:
            put_memory(live.library, tiny_model, "hush name")
            body = {"model": "hush name", "messages": [{"role": "user", "content": "hush question"}]}
            url = f"{live.url}/v1/chat/completions"
            threading.Thread(target=lambda: answer(engine.wait_for(1)[0], "hush answer")).start()
            assert loopback.post(url, json=body, headers=header, timeout=60).status_code == 200
            threading.Thread(target=lambda: engine.wait_for(2)[1].finish(ValueError("hush fault"))).start()
            failed = loopback.post(url, json=body, headers={**header, "X-Request-ID": "fault-1"}, timeout=60)
            assert failed.status_code == 500 and "hush" not in failed.text and "fault-1" in failed.text
            loopback.get(f"{live.url}/api/memories/hush name/document", headers=header)
            loopback.get(f"{live.url}/hush/path?hush=1", headers=header)
            files = {"file": ("hush.txt", b"hush text")}
            loopback.post(f"{live.url}/v1/files", files=files, data={"purpose": "hush"}, headers=header)
            loopback.post(f"{live.url}/v1/files", files=files, data={"purpose": "fine-tune"}, headers=header)
            loopback.get(f"{live.url}/v1/models", headers={"Authorization": "Bearer hush-key"})
    finally:
        logger.removeHandler(heard)
        logger.setLevel(before)
    lines = [json.loads(line) for line in heard.lines]
    assert not [line for line in heard.lines if "hush" in line]
    asked = [line for line in lines if line["event"] == "request"]
    assert {"time", "level", "request_id", "method", "route", "status", "seconds", "key"} <= asked[0].keys()
    assert (asked[0]["route"], asked[0]["status"], asked[0]["key"]) == ("/v1/chat/completions", 200, "anna")
    assert "/api/memories/{name}/document" in [line["route"] for line in asked]
    (fault,) = [line for line in lines if line["event"] == "fault"]
    assert fault["error"] == "ValueError" and fault["request_id"] == "fault-1"


@given(st.text(max_size=50))
def test_no_text_is_loopback_but_this_machine(host: str) -> None:
    if is_loopback(host):
        assert host.lower() == "localhost" or host.startswith("127.") or ":" in host


def test_the_command_refuses_what_would_be_open_to_everybody(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert lift.cli.run(["serve", "--host", "0.0.0.0"]) == 2
    assert "--api-key-file" in capsys.readouterr().err
    with closing(socket.create_server(("127.0.0.1", 0))) as taken:
        assert lift.cli.run(["serve", "--port", str(taken.getsockname()[1])]) == 2
    assert "in use" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--port", "TAKEN"], "in use"),
        (["--host", "192.0.2.1", "--port", "0", "--api-key-file", "KEYS"], "not"),
        (["--host", "no such host", "--port", "0", "--api-key-file", "KEYS"], "--host"),
        (["--port", "0", "--api-key-file", "EMPTY"], "at least one key"),
    ],
)
def test_what_is_wrong_with_the_command_is_said_before_torch_is_loaded(
    tmp_path: Path, options: list[str], said: str
) -> None:
    kept(tmp_path / "keys.jsonl", "read")
    (tmp_path / "empty.jsonl").touch()
    with closing(socket.create_server(("127.0.0.1", 0))) as taken:
        words = {
            "TAKEN": str(taken.getsockname()[1]),
            "KEYS": str(tmp_path / "keys.jsonl"),
            "EMPTY": str(tmp_path / "empty.jsonl"),
        }
        program = (
            "import sys, lift.cli; status = lift.cli.run(['serve', *sys.argv[1:]]); "
            "print(status, {'torch', 'fastapi'} & set(sys.modules))"
        )
        command = [sys.executable, "-c", program, *(words.get(each, each) for each in options)]
        ended = subprocess.run(command, capture_output=True, text=True, check=True)
    assert ended.stdout.split("\n")[0] == "2 set()"
    assert said in ended.stderr and ended.stderr.count("\n") == 1


def test_a_port_that_the_user_may_not_have_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_socket: socket.socket, _address: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(socket.socket, "bind", refuse)
    with pytest.raises(UsageError, match=r"port 80 .* 1024"):
        open_socket(ServerSettings(port=80))


def test_the_command_makes_keys(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    key_file = tmp_path / "keys.jsonl"
    options = ["serve", "--new-key", "anna", "--scopes", "read, absorb", "--api-key-file", str(key_file)]
    assert lift.cli.run(options) == 0
    secret = capsys.readouterr().out.strip()
    found = KeyFile(key_file).find(secret)
    assert found is not None and found.name == "anna" and found.scopes == {"read", "absorb"}
    assert lift.cli.run(options) == 2 and lift.cli.run(options[:5]) == 2
    assert lift.cli.run([*options[:2], "bob", *options[3:], "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["name"] == "bob"


def test_the_command_says_what_is_missing(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None if name == "fastapi" else object())
    assert lift.cli.run(["serve"]) == 2
    assert "pip install 'lift-memory[serve]'" in capsys.readouterr().err


@pytest.mark.slow  # a process of its own, which imports torch
def test_the_command_serves_until_it_is_told_to_stop(tiny_directory: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-c", "from lift.cli import main; main()", "serve", "--port", "0", "--json"]
    options = ["--model", str(tiny_directory), "--library", str(tmp_path / "library")]
    process = subprocess.Popen([*command, *options], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None and process.stderr is not None
        url = json.loads(process.stdout.readline())["url"]
        body = {**ASK, "model": "tiny-model", "max_tokens": 400, "stream": True}
        with loopback.stream("POST", f"{url}/v1/chat/completions", json=body, timeout=60) as response:
            lines = response.iter_lines()
            next(lines)
            os.kill(process.pid, signal.SIGTERM)
            assert "data: [DONE]" in list(lines)  # the running answer is finished first
        assert process.wait(60) == 0
        for line in process.stderr.read().splitlines():
            assert json.loads(line)["event"]
    finally:
        process.kill()
        process.wait()
