"""Files and jobs belong to the key that made them: no other key sees, fetches, uses, cancels or deletes them."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import loopback
import pytest
from live_server import ScriptedEngine, serving

from lift.jobs.store import JobStore
from lift.models.base_model import BaseModel
from lift.server.keys import add_key

SCOPES = ("read", "ask", "absorb")
TEXT = b"Ada Quill founded the museum in 1911. It owns 42 lenses."


def test_a_key_sees_and_changes_what_is_its_own_alone(tiny_model: BaseModel, tmp_path: Path) -> None:
    key_file = tmp_path / "keys.jsonl"
    names = {"anna": SCOPES, "bob": SCOPES, "chief": ("admin",)}
    headers = {name: {"Authorization": f"Bearer {add_key(key_file, name, scopes)}"} for name, scopes in names.items()}
    engine = ScriptedEngine(tiny_model)
    with (
        serving(tiny_model, tmp_path / "library", key_file=key_file, engine=engine) as live,
        loopback.Client(base_url=live.url, timeout=60) as http,
    ):

        def call(name: str, method: str, path: str, **options: Any) -> Any:
            return http.request(method, path, headers=headers[name], **options)

        def order(name: str, file: str) -> Any:
            body = {"model": "tiny", "training_file": file}
            return call(name, "POST", "/v1/fine_tuning/jobs", json=body)

        form = {"data": {"purpose": "fine-tune"}, "files": {"file": ("notes.txt", TEXT)}}
        file = call("anna", "POST", "/v1/files", **form).json()["id"]
        job = order("anna", file).json()["id"]
        unknown = "ftjob-" + "0" * 24
        attempts = [
            ("GET", f"/v1/files/{file}", None),
            ("GET", f"/v1/files/{file}/content", None),
            ("DELETE", f"/v1/files/{file}", None),
            ("POST", "/api/plan", {"file_id": file}),
            ("GET", f"/v1/fine_tuning/jobs/{job}", None),
            ("GET", f"/v1/fine_tuning/jobs/{job}/events", None),
            ("POST", f"/v1/fine_tuning/jobs/{job}/cancel", None),
            ("GET", f"/api/jobs/{job}", None),
            ("GET", f"/api/jobs/{job}/events", None),
            ("POST", f"/api/jobs/{job}/cancel", None),
            ("POST", f"/api/jobs/{job}/retry", None),
            ("GET", f"/v1/fine_tuning/jobs?after={job}", None),
            ("GET", f"/api/jobs?after={job}", None),
            ("GET", f"/v1/files?after={file}", None),
            ("POST", "/v1/fine_tuning/jobs", {"model": "tiny", "training_file": file}),
        ]
        for method, path, body in attempts:
            said = call("bob", method, path, json=body)
            assert said.status_code == 404, (method, path, said.text)
            # and it is not told apart from what there is not
            same = call("bob", method, path.replace(job, unknown).replace(file, "file-0"), json=body)
            blank = said.text.replace(job, "ID").replace(file, "ID")
            assert blank == same.text.replace(unknown, "ID").replace("file-0", "ID") or body is not None
        for path in ("/v1/files", "/v1/fine_tuning/jobs", "/api/jobs"):
            assert not call("bob", "GET", path).json()["data"]
            assert len(call("anna", "GET", path).json()["data"]) == 1
            assert len(call("chief", "GET", path).json()["data"]) == 1
        assert live.store.job(job).status == "queued"
        assert call("anna", "GET", f"/v1/files/{file}/content").content == TEXT
        assert call("chief", "POST", f"/api/jobs/{job}/cancel").json()["status"] == "cancelled"
        assert call("anna", "POST", f"/api/jobs/{job}/retry").json()["status"] == "queued"
        assert "owner" not in call("anna", "GET", f"/api/jobs/{job}").text
        assert order("chief", file).status_code == 200, "expected an admin to use what an admin sees"


def test_what_was_made_before_there_were_keys_is_for_admins(tiny_model: BaseModel, tmp_path: Path) -> None:
    key_file = tmp_path / "keys.jsonl"
    header = {"Authorization": f"Bearer {add_key(key_file, 'anna', SCOPES)}"}
    root = tmp_path / "library"
    with serving(tiny_model, root, engine=ScriptedEngine(tiny_model)) as live:
        file = live.store.add_file("notes.txt", "fine-tune", TEXT, 10_000)
        assert loopback.get(f"{live.url}/v1/files/{file.id}").status_code == 200
    with serving(tiny_model, root, engine=ScriptedEngine(tiny_model), key_file=key_file) as live:
        assert loopback.get(f"{live.url}/v1/files/{file.id}", headers=header).status_code == 404


@pytest.mark.parametrize("owner", [None, "anna"])
def test_jobs_of_a_store_that_knew_no_owners_are_kept(tmp_path: Path, owner: str | None) -> None:
    with closing(JobStore(tmp_path / "jobs")) as store:
        file = store.add_file("notes.txt", "fine-tune", TEXT, 10_000)
        job = store.create(file.id)
    with closing(sqlite3.connect(tmp_path / "jobs" / "jobs.sqlite")) as rows:
        for table in ("files", "jobs"):
            rows.execute(f"ALTER TABLE {table} DROP COLUMN owner")
        rows.execute("PRAGMA user_version = 1")
        rows.commit()
    with closing(JobStore(tmp_path / "jobs")) as store:
        assert (store.job(job.id).status, store.job(job.id).owner) == ("queued", None)
        assert [each.id for each in store.files(owner)] == ([file.id] if owner is None else [])
        store.add_file("more.txt", "fine-tune", TEXT, 10_000, owner="anna")
        assert [each.name for each in store.files("anna")] == ["more.txt"]
