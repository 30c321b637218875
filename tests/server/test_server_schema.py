"""schemathesis over the whole OpenAPI document: whatever is sent, no fault of the server and no undocumented answer."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import loopback
import pytest
import schemathesis
import schemathesis.cli
from click.testing import CliRunner
from conftest import tiny_llama
from live_server import TEXT, put_memory, serving

from lift.models.base_model import BaseModel
from lift.serving.request import ROLES

# an id that was drawn at random is what the document asks for, and is not found all the same
LEFT_OUT = "positive_data_acceptance"
# what is known must stay, under its name; a plan of a file that there is loads a model, in a process of its own
LEAVE_STANDING = ("--exclude-method", "DELETE", "--exclude-path", "/api/plan")
LEAVE_STANDING += ("--exclude-operation-id", "patch_api_memories_name")
# a form has no types: schemathesis sends 0 as the file "0", and takes it for a number that was accepted
LEAVE_STANDING += ("--exclude-operation-id", "post_v1_files")


@pytest.fixture
def url(tiny_tokenizer: Any, tmp_path: Path) -> Iterator[str]:
    """A server with a memory, a file and a job, and beside it the settings that name them to schemathesis."""
    base = BaseModel(model=tiny_llama(), tokenizer=tiny_tokenizer, id="tiny", fingerprint="0" * 64)
    # a limit that bites would stand in for the answers of the routes
    with serving(base, tmp_path / "library", answer_s=20.0, requests_per_minute=1_000_000) as live:
        put_memory(live.library, base, "quill")
        file = live.store.add_file("m.md", "fine-tune", TEXT.encode(), 10_000)
        job = live.store.create(file.id)
        live.store.cancel(job.id)
        names = {"name": "quill", "model": "quill", "job_id": job.id, "file_id": file.id}
        lines = [f'"path.{name}" = "{value}"' for name, value in names.items()]
        (tmp_path / "known.toml").write_text("\n".join(["[parameters]", *lines]), "utf-8")
        (tmp_path / "guessed.toml").write_text("", "utf-8")
        yield live.url


@pytest.fixture
def known_names(url: str) -> Iterator[None]:
    """Bodies name models and files that there are: names drawn at random would never come to an answer or a job."""
    (file,) = loopback.get(f"{url}/v1/files").json()["data"]

    @schemathesis.hook
    def map_body(_context: Any, body: Any) -> Any:
        # what is to be refused stays as it is: no name at all, or something that is none
        known = {"model": "quill"}
        if isinstance(body, dict) and "training_file" in body:
            known = {"model": "tiny", "training_file": file["id"]}
        if isinstance(body, dict) and all(isinstance(body.get(key), str) and body[key] for key in known):
            body |= known
        if isinstance(body, dict) and are_turns(body.get("messages")):
            body["messages"] = [{"role": "user", "content": "Who founded it?"}]
        return body

    yield
    schemathesis.hooks.GLOBAL_HOOK_DISPATCHER.unregister(map_body)


def are_turns(messages: Any) -> bool:
    """Whether each has the shape of a turn; in the order that they are drawn in hardly any are a dialogue."""
    return (
        isinstance(messages, list)
        and bool(messages)
        and all(isinstance(each, dict) and each.keys() <= {"role", "content"} for each in messages)
        and all(each.get("role") in ROLES and isinstance(each.get("content"), str) for each in messages)
    )


def fuzz(url: str, config: Path, examples: int, *more: str) -> None:
    """Run schemathesis with all its phases but the stateful one; its report is what a failure shows."""
    options = ["--phases", "examples,coverage,fuzzing", "--exclude-checks", LEFT_OUT, *more]
    options += ["--max-examples", str(examples), "--generation-deterministic", "--request-timeout", "60"]
    command = ["--config-file", str(config), "run", f"{url}/openapi.json", *options]
    said = CliRunner().invoke(schemathesis.cli.schemathesis, command)
    assert said.exit_code == 0, said.output


@pytest.mark.slow
def test_every_answer_is_one_that_the_document_promises(url: str, tmp_path: Path) -> None:
    fuzz(url, tmp_path / "guessed.toml", 2)


@pytest.mark.slow
def test_answers_about_what_there_is_are_what_the_document_promises(
    url: str, tmp_path: Path, known_names: None
) -> None:
    fuzz(url, tmp_path / "known.toml", 20, *LEAVE_STANDING)
    # the first examples of a route are mostly refused; so many come to answers and jobs
    told = loopback.get(f"{url}/metrics").text
    for route in ("/v1/chat/completions", "/v1/completions", "/v1/fine_tuning/jobs", "/api/compare"):
        answered = f'lift_http_requests_total{{method="POST",route="{route}",status="200"}}'
        assert answered in told, [line for line in told.splitlines() if f'"{route}"' in line]


def test_the_document_promises_errors_in_one_shape(url: str) -> None:
    document = loopback.get(f"{url}/openapi.json").json()
    assert len(document["paths"]) > 20
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            assert "422" not in operation["responses"]
            failures = {status: each for status, each in operation["responses"].items() if int(status) >= 400}
            assert failures, (path, method)
            for each in failures.values():
                reference = each["content"]["application/json"]["schema"]["$ref"]
                assert reference == "#/components/schemas/ErrorBody"
