"""Lift's own routes: the library, jobs with their events as they come, plans, comparisons, and what monitors read."""

from __future__ import annotations

import asyncio
import io
import json
import threading
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import loopback
import pytest
from conftest import tiny_llama
from live_server import TEXT, Live, ScriptedEngine, completion, eventually, put_memory, serving

from lift.answering.answer import Evidence
from lift.documents.document import Place
from lift.errors import UsageError
from lift.jobs.database import tell
from lift.jobs.job import JobEventDraft
from lift.memories.manifest import ADAPTER_STATE_FILE
from lift.models.base_model import BaseModel
from lift.server.failures import Refusal
from lift.server.plan_api import Planner
from lift.server.plan_process import plan
from lift.server.settings import ServerSettings


@pytest.fixture
def live(tiny_model: BaseModel, tmp_path: Path) -> Iterator[Live]:
    with serving(tiny_model, tmp_path / "library") as server:
        put_memory(server.library, tiny_model, "quill", 1)
        yield server


@pytest.fixture
def http(live: Live) -> Iterator[httpx.Client]:
    with loopback.Client(base_url=live.url, timeout=60) as client:
        yield client


def test_the_library_is_listed_with_recall_and_without_paths(http: httpx.Client, live: Live) -> None:
    (live.library.root / "broken").mkdir()
    (live.library.root / "broken" / "memory.json").write_text("{", "utf-8")
    listed = http.get("/api/memories").json()
    (line,) = listed["data"]
    assert (line["name"], line["title"], line["source"]) == ("quill", "The museum", "museum.pdf")
    assert line["recall"] == {"sentences": 4, "probed": 2, "recalled": 1}
    assert line["servable"] is True and line["size_bytes"] > 0
    assert listed["damaged"][0]["name"] == "broken"
    shown = http.get("/api/memories/quill")
    assert shown.status_code == 200 and line.items() <= shown.json().items()
    assert str(live.library.root) not in shown.text + json.dumps(listed)
    assert http.get("/api/memories/broken").status_code == 409


def test_the_document_is_told_sentence_by_sentence(http: httpx.Client) -> None:
    document = http.get("/api/memories/quill/document").json()
    assert document["text"] == TEXT
    states = [(TEXT[each["start"] : each["end"]].strip(), each["state"]) for each in document["sentences"]]
    assert states == [
        ("Ada Quill founded the museum in 1911.", "recalled"),
        ("It owns 42 lenses.", "forgotten"),
        ("The tower burned.", "not probed"),
        ("𝔸 last word.", "not probed"),
    ]
    assert document["places"][1] == {"start": 38, "page": 2, "heading": "Lenses"}
    recall = http.get("/api/memories/quill/recall").json()
    assert len(recall["probes"]) == 3 and recall["probes"][1]["recalled"] is True
    assert recall["suggestions"] == ["Who founded the museum in 1911?"]


def test_a_renamed_memory_answers_under_its_new_name_alone(http: httpx.Client) -> None:
    body = {"messages": [{"role": "user", "content": "Who?"}], "max_tokens": 3}
    before = http.post("/v1/chat/completions", json={"model": "quill", **body}).json()["choices"]
    assert http.patch("/api/memories/quill", json={"name": "ada q."}).status_code == 400
    assert http.patch("/api/memories/quill", json={"name": "ada q"}).json()["name"] == "ada q"
    assert http.post("/v1/chat/completions", json={"model": "quill", **body}).status_code == 404
    assert http.post("/v1/chat/completions", json={"model": "ada q", **body}).json()["choices"] == before


def test_a_name_that_is_taken_is_a_conflict(http: httpx.Client, live: Live, tiny_model: BaseModel) -> None:
    put_memory(live.library, tiny_model, "other", 2)
    refused = http.patch("/api/memories/quill", json={"name": "Other"})
    assert refused.status_code == 409 and "other" in refused.json()["error"]["message"]
    assert live.library.names() == ["other", "quill"]


def test_a_deleted_memory_is_gone(http: httpx.Client, live: Live) -> None:
    assert http.delete("/api/memories/quill").json() == {"id": "quill", "object": "memory", "deleted": True}
    assert live.library.names() == []
    assert http.delete("/api/memories/quill").status_code == 404


def test_a_memory_replaced_under_its_name_answers_anew(http: httpx.Client, live: Live, tiny_model: BaseModel) -> None:
    body = {"model": "quill", "messages": [{"role": "user", "content": "Who?"}], "max_tokens": 8, "context": "none"}
    before = http.post("/v1/chat/completions", json=body).json()["choices"]
    http.delete("/api/memories/quill")
    put_memory(live.library, tiny_model, "quill", 99)
    assert http.post("/v1/chat/completions", json=body).json()["choices"] != before


def test_an_export_is_the_adapter_as_peft_reads_it(http: httpx.Client, live: Live) -> None:
    exported = http.get("/api/memories/quill/export", params={"to": "peft"})
    assert exported.headers["content-type"] == "application/zip"
    assert "quill.zip" in exported.headers["content-disposition"]
    with zipfile.ZipFile(io.BytesIO(exported.content)) as archive:
        assert sorted(archive.namelist()) == ["adapter_config.json", "adapter_model.safetensors"]
        stored = (live.library["quill"].directory / ADAPTER_STATE_FILE).read_bytes()
        assert archive.read("adapter_model.safetensors") == stored
        assert json.loads(archive.read("adapter_config.json"))["r"] == 2
    assert http.get("/api/memories/quill/export", params={"to": "gguf"}).status_code == 400


def test_three_ways_of_answering_stand_side_by_side(tiny_model: BaseModel, tmp_path: Path) -> None:
    engine = ScriptedEngine(tiny_model)
    with serving(tiny_model, tmp_path / "library", engine=engine) as live:
        put_memory(live.library, tiny_model, "quill")

        def say() -> None:
            for handle in engine.wait_for(3):
                context = handle.request.context
                evidence = (Evidence(0, "Ada Quill.", Place(0, 3, "Founders")),)
                outcome = completion(context, context=context, evidence=evidence, supported=True, seconds=0.25)
                handle.finish(UsageError("the text does not fit") if context == "full" else outcome)

        threading.Thread(target=say).start()
        compared = loopback.post(
            f"{live.url}/api/compare", json={"model": "quill", "question": "Who?"}, timeout=60
        ).json()
        assert compared["memory"]["text"] == "none" and compared["evidence"]["text"] == "evidence"
        assert compared["memory"]["evidence"][0]["relation"] == "supports"
        assert compared["memory"]["evidence"][0]["place"] == {"page": 3, "heading": "Founders", "file": None}
        assert compared["memory"]["prompt_tokens"] == 3 and compared["memory"]["seconds"] == 0.25
        assert compared["full"] == {
            "error": {
                "message": "the text does not fit",
                "type": "invalid_request_error",
                "param": None,
                "code": "invalid_value",
            }
        }
        only_base = loopback.post(f"{live.url}/api/compare", json={"model": "tiny", "question": "Who?"})
        assert only_base.status_code == 404


def test_a_comparison_is_three_answers_of_the_engine(http: httpx.Client) -> None:
    compared = http.post("/api/compare", json={"model": "quill", "question": "Who founded it?"}).json()
    assert [compared[way]["context"] for way in ("memory", "full", "evidence")] == ["none", "full", "evidence"]


def test_a_plan_says_what_an_upload_would_take(tiny_model: BaseModel, tiny_directory: Path, tmp_path: Path) -> None:
    stored = tmp_path / "file-0"
    stored.write_text("# Museum\n\nAda Quill founded the lighthouse museum of Port Merrow in 1911.", "utf-8")
    made = plan(path=str(stored), name="m.md", title="T", model=str(tiny_directory), recipe="fast", budget_s=None)
    assert made["title"] == "T" and made["sentences"] > 0 and made["seconds"] > 0 and made["adapter_bytes"] > 0
    assert made["text"].startswith("Museum\n\nAda Quill") and made["text_chars"] == len(made["text"])
    assert list(made["warnings"]) == []


def test_a_plan_at_a_known_speed_times_nothing(
    tiny_directory: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stored = tmp_path / "file-0"
    stored.write_text("# Museum\n\nAda Quill founded the lighthouse museum of Port Merrow in 1911.", "utf-8")
    options: dict[str, Any] = {"path": str(stored), "name": "m.md", "title": "T", "model": str(tiny_directory)}
    timed = plan(**options, recipe="fast", budget_s=None)
    monkeypatch.setattr("lift.absorbing.planning.calibrate", None)
    known = {"tokens_per_s": 500.0, "ask_s": 0.25, "read_tokens_per_s": 1000.0}
    made = plan(**options, recipe="fast", budget_s=None, known=known)
    assert made["seconds"] == pytest.approx(made["train_tokens"] / 500.0)
    assert made["train_tokens"] == pytest.approx(timed["train_tokens"], abs=1)
    for key in ("tokens", "sentences", "tasks", "adapter_bytes"):
        assert made[key] == timed[key]
    assert made["epochs"] == pytest.approx(timed["epochs"], rel=1e-3)
    assert (made["tokens_per_s"], made["ask_s"]) == (500.0, 0.25)
    assert made["full_read_s"] == pytest.approx(0.25 + made["tokens"] / 1000.0)
    assert plan(**options, recipe="fast", budget_s=None, known={})["tokens_per_s"] > 0
    short = plan(**options, recipe="fast", budget_s=made["seconds"] / 2, known={"tokens_per_s": 500.0})
    assert short["seconds"] == pytest.approx(made["seconds"] / 2)
    assert short["train_tokens"] == pytest.approx(made["train_tokens"] / 2, abs=1)
    assert 0 < short["tasks"] <= made["tasks"] and short["ask_s"] > 0


class ScriptedPlanner:
    """Stands in for the process that plans: remembers what it was ordered."""

    def __init__(self) -> None:
        self.speeds: dict[str, dict[str, float | None]] = {}
        self.orders: list[dict[str, Any]] = []

    async def start(self) -> None:
        pass

    async def close(self) -> None:
        pass

    async def plan(self, order: dict[str, Any], limit_s: float) -> dict[str, Any]:
        self.orders.append(order)
        numbers = dict.fromkeys(("tokens", "sentences", "tasks", "train_tokens", "peak_bytes", "adapter_bytes"), 1)
        numbers |= {"break_even_questions": 1, "requests": 0, "cached_requests": 0}
        numbers |= {"warnings": ["1 image was left out (page 2)."], "text": "It rained.", "text_chars": 10}
        times = dict.fromkeys(("epochs", "tokens_per_s", "seconds", "full_read_s", "ask_s"), 1.0)
        return {"plan": {"title": "T", **numbers, **times, "speed": {"tokens_per_s": 300.0}}}


def test_a_plan_while_a_document_is_absorbed_is_an_estimate(http: httpx.Client, live: Live) -> None:
    planner = live.app.state.planner = ScriptedPlanner()
    file = live.store.add_file("m.md", "fine-tune", TEXT.encode(), 10_000)

    def timing(recipe: str) -> str:
        made = http.post("/api/plan", json={"file_id": file.id, "recipe": recipe})
        assert made.status_code == 200, made.text
        return str(made.json()["timing"])

    assert timing("fast") == "timed" and planner.orders[-1]["known"] is None
    job, lease = live.store.create(file.id), live.store.lease()
    assert timing("fast") == "earlier" and planner.orders[-1]["known"] == {"tokens_per_s": 300.0}
    assert timing("default") == "short trial" and planner.orders[-1]["known"]["tokens_per_s"] is None
    lease.claim()
    lease.record(job.id, JobEventDraft("planned", "as fast as it is", {"tokens_per_s": 120.0}))
    assert timing("fast") == "earlier" and planner.orders[-1]["known"] == {"tokens_per_s": 300.0}
    assert timing("default") == "running job" and planner.orders[-1]["known"]["tokens_per_s"] == 120.0
    lease.fail(job.id, JobEventDraft("failed", "no more", {}))
    assert timing("default") == "timed"


@pytest.mark.slow  # processes of their own, which import torch
def test_the_process_that_plans_is_kept_for_the_next_plan_and_not_for_ever(
    tiny_directory: Path, tmp_path: Path
) -> None:
    stored = tmp_path / "file-0"
    stored.write_text("# Museum\n\nAda Quill founded the lighthouse museum of Port Merrow in 1911.", "utf-8")
    order = {"path": str(stored), "name": "m.md", "title": "T", "model": str(tiny_directory), "recipe": "fast"}

    async def plans() -> None:
        planner = Planner(kept_s=1.0)
        first = await planner.plan({**order, "budget_s": None}, 120)
        process = planner._process
        assert process is not None
        refused = await planner.plan({**order, "budget_s": None, "path": str(tmp_path / "none")}, 120)
        assert refused["status"] == 400
        known = first["plan"]["speed"]
        again = await planner.plan({**order, "budget_s": None, "known": known}, 120)
        assert planner._process is process and again["plan"]["tokens_per_s"] == known["tokens_per_s"]
        assert await asyncio.wait_for(process.wait(), 60) == 0
        with pytest.raises(Refusal, match="within"):
            await planner.plan({**order, "budget_s": None}, 0.1)
        assert planner._process is None
        await planner.close()

    asyncio.run(plans())


@pytest.mark.slow  # two processes of their own, which import torch
def test_a_plan_is_made_in_a_process_of_its_own(tiny_model: BaseModel, tiny_directory: Path, tmp_path: Path) -> None:
    base = BaseModel(tiny_llama(), tiny_model.tokenizer, str(tiny_directory), "0" * 64)
    with serving(base, tmp_path / "library") as live, loopback.Client(base_url=live.url, timeout=120) as http:
        good = live.store.add_file("m.md", "fine-tune", TEXT.encode(), 10_000)
        bad = live.store.add_file("scan.pdf", "fine-tune", b"%PDF-1.4 nothing", 10_000)
        made = http.post("/api/plan", json={"file_id": good.id, "title": "T"})
        assert made.status_code == 200 and made.json()["title"] == "T" and made.json()["sentences"] == 4
        refused = http.post("/api/plan", json={"file_id": bad.id})
        assert refused.status_code == 400 and "scan.pdf" in refused.json()["error"]["message"]


def test_a_plan_wants_a_file_and_a_recipe_that_there_are(http: httpx.Client, live: Live) -> None:
    file = live.store.add_file("m.md", "fine-tune", TEXT.encode(), 10_000)
    assert http.post("/api/plan", json={"file_id": "file-0"}).status_code == 404
    assert http.post("/api/plan", json={"file_id": file.id, "recipe": "/etc/recipe.toml"}).status_code == 400
    assert http.post("/api/plan", json={"file_id": file.id, "budget_s": 0}).status_code == 400


def events_of(response: httpx.Response) -> Iterator[dict[str, Any]]:
    number = None
    for line in response.iter_lines():
        if line.startswith("id: "):
            number = int(line[4:])
        elif line.startswith("data: "):
            data = json.loads(line[6:])
            assert data["number"] == number
            yield data


def test_events_come_as_they_happen_and_end_with_the_job(http: httpx.Client, live: Live) -> None:
    file = live.store.add_file("m.md", "fine-tune", TEXT.encode(), 10_000)
    job = live.store.create(file.id, name="m")
    seen: list[str] = []

    def go_on() -> None:
        eventually(lambda: seen == ["queued"])
        live.store.cancel(job.id)

    threading.Thread(target=go_on).start()
    with http.stream("GET", f"/api/jobs/{job.id}/events") as response:
        assert response.headers["content-type"].startswith("text/event-stream")
        for event in events_of(response):
            seen.append(event["kind"])
    assert seen == ["queued", "cancelled"]
    assert http.get(f"/api/jobs/{job.id}").json()["status"] == "cancelled"


def test_a_reader_who_comes_back_misses_nothing_and_hears_nothing_twice(http: httpx.Client, live: Live) -> None:
    file = live.store.add_file("m.md", "fine-tune", TEXT.encode(), 10_000)
    job, other = live.store.create(file.id), live.store.create(file.id)
    for step in range(5):
        with live.store._database.writing() as rows:
            tell(rows, job.id, JobEventDraft("trained", f"step {step}", {"step": step, "loss": 1.5}))
            tell(rows, other.id, JobEventDraft("trained", "of another job", {}))
    live.store.cancel(job.id)
    with http.stream("GET", f"/api/jobs/{job.id}/events") as response:
        every = list(events_of(response))
    assert [event["data"].get("step") for event in every] == [None, 0, 1, 2, 3, 4, None]
    for last in (every[2]["number"], every[-1]["number"]):
        headers = {"Last-Event-ID": str(last)}
        with http.stream("GET", f"/api/jobs/{job.id}/events", headers=headers) as response:
            assert list(events_of(response)) == [event for event in every if event["number"] > last]


def test_jobs_are_listed_cancelled_tried_again_and_put_first(http: httpx.Client, live: Live) -> None:
    file = live.store.add_file("m.md", "fine-tune", TEXT.encode(), 10_000)
    first, second = live.store.create(file.id, title="One"), live.store.create(file.id)
    page = http.get("/api/jobs", params={"limit": 1}).json()
    assert [job["id"] for job in page["data"]] == [second.id] and page["has_more"] is True
    assert page["data"][0]["title"] == "m.md"
    rest = http.get("/api/jobs", params={"after": second.id}).json()
    assert [job["title"] for job in rest["data"]] == ["One"] and rest["has_more"] is False
    assert http.post(f"/api/jobs/{first.id}/retry").status_code == 409
    assert http.post(f"/api/jobs/{first.id}/cancel").json()["status"] == "cancelled"
    assert http.post(f"/api/jobs/{first.id}/retry").json()["status"] == "queued"
    assert http.patch(f"/api/jobs/{second.id}", json={"priority": 5}).json()["priority"] == 5
    assert http.get("/api/jobs/ftjob-0").status_code == 404
    assert http.get("/api/jobs/ftjob-0/events").status_code == 404


def test_monitors_see_what_goes_on(http: httpx.Client, live: Live) -> None:
    http.post("/v1/chat/completions", json={"model": "quill", "messages": [{"role": "user", "content": "Who?"}]})
    assert http.get("/healthz").json() == {"status": "ok"}
    assert http.get("/readyz").status_code == 200
    told = http.get("/metrics").text
    route = 'method="POST",route="/v1/chat/completions",status="200"'
    assert f"lift_http_requests_total{{{route}}} 1.0" in told
    assert "lift_engine_completed 1.0" in told and 'lift_tokens_total{kind="prompt"}' in told
    http.request("INVENTED", "/v1/models")
    assert "INVENTED" not in http.get("/metrics").text
    live.app.state.parts.stopping.set()
    assert http.get("/readyz").status_code == 503 and http.get("/healthz").status_code == 200


def test_the_page_is_served_with_what_it_loads(http: httpx.Client) -> None:
    page = http.get("/")
    assert page.headers["content-type"].startswith("text/html") and "/static/" in page.text
    assert http.get("/static/app.js").status_code == 200
    for outside in ("/static/../app.py", "/static/%2e%2e/app.py", "/static/..%2fapp.py"):
        assert http.get(outside).status_code == 404


def test_the_end_waits_for_running_answers(tiny_model: BaseModel, tmp_path: Path) -> None:
    engine = ScriptedEngine(tiny_model)
    answers: list[httpx.Response] = []
    body = {"model": "tiny", "messages": [{"role": "user", "content": "Who?"}]}
    with serving(tiny_model, tmp_path / "library", engine=engine) as live:
        asking = threading.Thread(
            target=lambda: answers.append(loopback.post(f"{live.url}/v1/chat/completions", json=body, timeout=60))
        )
        asking.start()
        handle = engine.wait_for(1)[0]

        def finish_late() -> None:
            eventually(live.app.state.parts.stopping.is_set)
            time.sleep(0.3)
            handle.finish(completion("at last"))

        threading.Thread(target=finish_late).start()
    asking.join(30)
    assert answers[0].json()["choices"][0]["message"]["content"] == "at last"


def test_settings_state_when_keys_are_needed() -> None:
    for host in ("127.0.0.1", "::1", "localhost", "127.8.9.10"):
        ServerSettings(host=host).check()
    for host in ("0.0.0.0", "::", "192.168.1.5", "museum.example"):
        with pytest.raises(UsageError, match="--api-key-file"):
            ServerSettings(host=host).check()
