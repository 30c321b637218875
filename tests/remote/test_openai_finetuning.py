"""Fine-tuning over HTTP with the real openai client: the life cycle, every fault, and no job paid twice."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from scripted_vendor import KEY, MODEL, Fault, ScriptedVendor, problem

from lift.endpoints.openai_endpoint import Endpoint
from lift.endpoints.retry_policy import RetryPolicy
from lift.errors import InterruptedAbsorption, RemoteError
from lift.recipes.recipe import RemoteSettings
from lift.remote.finetuning_jobs import ProviderJobEvent, cancel_job
from lift.remote.openai_finetuning import Estimated, JobCreated, Order, Tuned, Uploaded, fine_tune
from lift.remote.price import estimate_price
from lift.remote.training_file import TrainingFile

FAST = RetryPolicy(timeout_s=0.5, tries=3, first_wait_s=0.001, longest_wait_s=0.02)
ABSORPTION = "0123456789abcdef" * 4
LINE = json.dumps({"messages": [{"role": "user", "content": "Q"}, {"role": "assistant", "content": "A"}]})
CREATE, UPLOAD, LIST = "POST /fine_tuning/jobs", "POST /files", "GET /fine_tuning/jobs"
LOOK, EVENTS = "GET /fine_tuning/jobs/ID", "GET /fine_tuning/jobs/ID/events"
BUSY = Fault(429, problem("Rate limit reached", "rate_limit_exceeded"), {"Retry-After": "0.01"})
DOWN = Fault(503, problem("The server is overloaded", kind="server_error"))


class Killed(BaseException):
    """The process ends here; nothing that catches exceptions sees it."""


@pytest.fixture(autouse=True)
def _environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    for variable in ("OPENAI_BASE_URL", "OPENAI_ORG_ID", "OPENAI_PROJECT_ID"):
        monkeypatch.delenv(variable, raising=False)


@pytest.fixture
def vendor() -> Iterator[ScriptedVendor]:
    with ScriptedVendor() as running:
        yield running


def make_order(vendor: ScriptedVendor, model: str = MODEL) -> Order:
    file = TrainingFile((LINE + "\n").encode() * 12, (20,) * 12, 0)
    settings = RemoteSettings(poll_s=0.002)
    return Order(ABSORPTION, model, file, settings, 0, estimate_price(file, model, vendor.url, settings.epochs))


def run(
    vendor: ScriptedVendor,
    directory: Path,
    *,
    model: str = MODEL,
    confirm: Callable[[Any], bool] = lambda _estimate: True,
    stop: threading.Event | None = None,
    **options: Any,
) -> list[Any]:
    with Endpoint(vendor.url, FAST, stop) as endpoint:
        return list(fine_tune(endpoint, make_order(vendor, model), directory, confirm, **options))


def refused(vendor: ScriptedVendor, directory: Path, **options: Any) -> str:
    """The one sentence that a run ends with."""
    with pytest.raises(RemoteError) as caught:
        run(vendor, directory, **options)
    message = str(caught.value)
    assert "\n" not in message
    assert KEY not in message
    return message


def test_the_way_from_the_file_to_the_model(vendor: ScriptedVendor, tmp_path: Path) -> None:
    events = run(vendor, tmp_path)
    kinds = [type(event) for event in events]
    assert kinds[:3] == [Estimated, Uploaded, JobCreated]
    assert kinds[-1] is Tuned
    log = [event for event in events if isinstance(event, ProviderJobEvent)]
    assert [event.message for event in log] == [
        "Created fine-tuning job: ftjob-1",
        "Validating training file",
        "Fine-tuning job started",
        "Step 1: training loss=2.5",
        "Step 2: training loss=1.25",
        "The job has successfully completed",
    ]
    assert log[3].metrics == {"step": 1, "train_loss": 2.5, "train_mean_token_accuracy": 0.4}
    assert not log[2].metrics
    assert events[-1] == Tuned("ftjob-1", f"ft:{MODEL}:scripted:lift-0123456789ab:X1", 1234, retries=0)
    job = vendor.jobs["ftjob-1"]
    assert job["hyperparameters"] == {"n_epochs": 3, "batch_size": 12, "learning_rate_multiplier": 0.5}
    assert vendor.contents[job["training_file"]] == make_order(vendor).file.content


def test_nothing_is_uploaded_before_the_price_is_agreed_to(vendor: ScriptedVendor, tmp_path: Path) -> None:
    shown = []

    def decline(estimate: Any) -> bool:
        assert UPLOAD not in vendor.asked
        shown.append(estimate)
        return False

    with pytest.raises(InterruptedAbsorption, match="nothing was uploaded"):
        run(vendor, tmp_path, confirm=decline)
    assert [estimate.billed_tokens for estimate in shown] == [12 * 20 * 3]
    assert not vendor.files
    assert not vendor.jobs


@pytest.mark.parametrize("newest_first", [True, False])
def test_events_over_many_pages_come_once_each_and_in_order(tmp_path: Path, newest_first: bool) -> None:
    with ScriptedVendor(page_limit=2, newest_first=newest_first) as vendor:
        for part in range(3):
            steps = [{"step": 5 * part + step, "train_loss": 1.0} for step in range(5)]
            vendor.stages.insert(-1, ("running", steps))
        log = [event for event in run(vendor, tmp_path) if isinstance(event, ProviderJobEvent)]
    assert [event.id for event in log] == [f"ftevent-{number}" for number in range(len(log))]
    assert [event.metrics["step"] for event in log if event.metrics][2:] == [float(step) for step in range(15)]


@pytest.mark.parametrize(
    "fault",
    [
        BUSY,
        DOWN,
        Fault(500, b"<html>broken</html>", {"Content-Type": "text/html"}),
        Fault(reset=True),
        Fault(delay_s=0.8),
        Fault(200, b'{"id": "ft'),
        Fault(200, b"<html>a gateway</html>", {"Content-Type": "text/html"}),
        Fault(200, {"object": "list"}),
        Fault(200, {"object": "list", "data": [{"id": None}]}),
    ],
    ids=["429", "503", "500 html", "reset", "slow", "half", "html", "no fields", "bad fields"],
)
def test_what_passes_is_tried_again_and_counted(vendor: ScriptedVendor, tmp_path: Path, fault: Fault) -> None:
    routes = [UPLOAD, CREATE, LIST, LOOK, EVENTS] if not fault.delay_s else [CREATE]
    for route in routes:
        vendor.fail(route, fault)
    tuned = run(vendor, tmp_path)[-1]
    assert tuned.retries == len(routes)
    assert len(vendor.jobs) == 1


@pytest.mark.parametrize(
    "lost", [Fault(reset=True, done=True), Fault(502, b"", done=True), Fault(200, b"{", done=True)]
)
@pytest.mark.parametrize("keeps_metadata", [True, False])
def test_a_job_whose_reply_was_lost_is_found_not_paid_again(
    vendor: ScriptedVendor, tmp_path: Path, lost: Fault, keeps_metadata: bool
) -> None:
    vendor.keeps_metadata = keeps_metadata
    vendor.fail(CREATE, lost)
    events = run(vendor, tmp_path)
    assert [event.found for event in events if isinstance(event, JobCreated)] == [True]
    assert len(vendor.jobs) == 1


@pytest.mark.parametrize(
    ("route", "fault", "said"),
    [
        (CREATE, Fault(429, problem("You exceeded your current quota", "insufficient_quota")), "quota"),
        (UPLOAD, Fault(400, problem("Expected file to have JSONL format", param="file")), "JSONL format, about file"),
        (CREATE, Fault(400, problem("n_epochs must be at most 50", param="n_epochs")), "about n_epochs"),
        (LIST, Fault(403, problem("You have insufficient permissions")), "insufficient permissions"),
        (LIST, Fault(404, b"nothing here", {"Content-Type": "text/plain"}), "answered 404"),
    ],
)
def test_what_is_refused_is_not_tried_again(
    vendor: ScriptedVendor, tmp_path: Path, route: str, fault: Fault, said: str
) -> None:
    vendor.fail(route, fault)
    assert said in refused(vendor, tmp_path)
    assert vendor.asked.count(route) <= 2  # once before the file, once after it
    assert vendor.paid_jobs == 0
    run(vendor, tmp_path)
    assert (vendor.paid_jobs, len(vendor.files)) == (1, 1)


@pytest.mark.parametrize("fault", [BUSY, DOWN, Fault(reset=True)])
@pytest.mark.parametrize("route", [UPLOAD, CREATE, LIST, EVENTS])
def test_patience_ends_and_the_next_run_goes_on(
    vendor: ScriptedVendor, tmp_path: Path, fault: Fault, route: str
) -> None:
    vendor.fail(route, *[fault] * FAST.tries)
    message = refused(vendor, tmp_path)
    assert "3 tries" in message
    assert fault is not BUSY or "rate limit" in message
    assert isinstance(run(vendor, tmp_path)[-1], Tuned)
    assert (vendor.paid_jobs, len(vendor.files)) == (1, 1)


def test_a_wrong_key_is_refused_and_not_repeated(
    vendor: ScriptedVendor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-wrong-secret")
    message = refused(vendor, tmp_path)
    assert "does not accept the API key" in message
    assert "sk-wrong-secret" not in message


def test_a_missing_key_is_said_before_any_request(
    vendor: ScriptedVendor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("OPENAI_API_KEY")
    assert "OPENAI_API_KEY" in refused(vendor, tmp_path)
    assert not vendor.asked


def test_an_unknown_model_is_said(vendor: ScriptedVendor, tmp_path: Path) -> None:
    message = refused(vendor, tmp_path, model="gpt-9")
    assert "does not offer that model" in message
    assert "gpt-9" in message


def test_a_file_that_cannot_be_used_costs_nothing_and_is_uploaded_anew(vendor: ScriptedVendor, tmp_path: Path) -> None:
    vendor.file_changes = {"status": "error", "status_details": "line 3 is not valid JSON"}
    assert "line 3 is not valid JSON" in refused(vendor, tmp_path)
    assert not vendor.jobs
    vendor.file_changes = {}
    run(vendor, tmp_path)
    assert len(vendor.files) == 2


def test_a_job_that_failed_says_why_and_the_next_run_starts_anew(vendor: ScriptedVendor, tmp_path: Path) -> None:
    whole = vendor.stages
    vendor.stages = [whole[0], ("failed", ["The job failed due to an invalid training file"])]
    vendor.job_problem = {
        "code": "invalid_training_file",
        "message": "The job failed due to an invalid training file. Expected at least 10 examples",
        "param": "training_file",
    }
    message = refused(vendor, tmp_path)
    assert "ftjob-1 failed" in message
    assert "at least 10 examples, about training_file" in message
    vendor.stages = whole
    assert run(vendor, tmp_path)[-1].job_id == "ftjob-2"
    assert vendor.paid_jobs == 1


def test_a_job_that_was_cancelled_elsewhere_says_so(vendor: ScriptedVendor, tmp_path: Path) -> None:
    vendor.stages = vendor.stages[:3]
    with (
        pytest.raises(RemoteError, match="ftjob-1 was cancelled at the endpoint"),
        Endpoint(vendor.url, FAST) as endpoint,
    ):
        for event in fine_tune(endpoint, make_order(vendor), tmp_path, lambda _: True):
            if isinstance(event, ProviderJobEvent) and event.metrics:
                vendor.cancel("ftjob-1")


@pytest.mark.parametrize("cancel", [False, True])
def test_stopping_leaves_the_job_running_or_cancels_it(vendor: ScriptedVendor, tmp_path: Path, cancel: bool) -> None:
    whole, vendor.stages = vendor.stages, vendor.stages[:3]
    stop = threading.Event()
    with (
        pytest.raises(InterruptedAbsorption, match="ftjob-1 is cancelled" if cancel else "goes on at"),
        Endpoint(vendor.url, FAST, stop) as endpoint,
    ):
        for event in fine_tune(endpoint, make_order(vendor), tmp_path, lambda _: True, cancel_on_stop=cancel):
            if isinstance(event, ProviderJobEvent) and event.metrics:
                stop.set()
    assert vendor.jobs["ftjob-1"]["status"] == ("cancelled" if cancel else "running")
    vendor.stages = whole
    run(vendor, tmp_path)
    assert len(vendor.jobs) == (2 if cancel else 1)
    assert vendor.paid_jobs == 1


def test_stopping_between_two_tries_does_not_wait(vendor: ScriptedVendor, tmp_path: Path) -> None:
    vendor.fail(UPLOAD, *[DOWN] * 3)
    stop = threading.Event()
    stop.set()
    with pytest.raises(InterruptedAbsorption, match="upload the training file"):
        run(vendor, tmp_path, stop=stop)
    assert vendor.asked.count(UPLOAD) == 1


def test_cancelling_a_job_that_has_ended_leaves_it_as_it_is(vendor: ScriptedVendor, tmp_path: Path) -> None:
    run(vendor, tmp_path)
    with Endpoint(vendor.url, FAST) as endpoint:
        assert cancel_job(endpoint, "ftjob-1").status == "succeeded"
        with pytest.raises(RemoteError, match="ftjob-7"):
            cancel_job(endpoint, "ftjob-7")


@pytest.mark.parametrize("lost_reply", [True, False], ids=["after", "before"])
@pytest.mark.parametrize("state_lost", [False, True], ids=["state", "no state"])
def test_a_run_that_dies_at_any_request_is_picked_up_and_paid_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lost_reply: bool, state_lost: bool
) -> None:
    import httpx2

    send = httpx2.Client.send
    left: list[int] = []

    def send_or_die(self: httpx2.Client, *args: Any, **options: Any) -> httpx2.Response:
        left[0] -= 1
        if left[0] == 0 and not lost_reply:
            raise Killed
        response = send(self, *args, **options)
        if left[0] == 0:
            raise Killed
        return response

    monkeypatch.setattr(httpx2.Client, "send", send_or_die)
    for k in range(1, 40):
        with ScriptedVendor() as vendor:
            directory = tmp_path / f"{k}"
            left[:] = [k]
            try:
                run(vendor, directory)
            except Killed:
                if state_lost:
                    (directory / "remote.json").unlink(missing_ok=True)
            else:
                break
            left[:] = [10**9]
            assert isinstance(run(vendor, directory)[-1], Tuned)
            assert len(vendor.jobs) == 1, f"killed at request {k}"
    assert k > 8


def test_what_has_finished_is_there_at_once(vendor: ScriptedVendor, tmp_path: Path) -> None:
    run(vendor, tmp_path)
    vendor.asked.clear()
    events = run(vendor, tmp_path, confirm=lambda _: pytest.fail("there is nothing to pay for"))
    assert isinstance(events[-1], Tuned)
    assert len([event for event in events if isinstance(event, ProviderJobEvent)]) == 6
    assert vendor.asked == [LOOK, LOOK, EVENTS]


def test_the_state_holds_no_secret_and_a_damaged_one_is_refused(vendor: ScriptedVendor, tmp_path: Path) -> None:
    run(vendor, tmp_path)
    state = tmp_path / "remote.json"
    assert json.loads(state.read_bytes()) == {
        "key": ABSORPTION,
        "file_id": "file-1",
        "creating": False,
        "job_id": "ftjob-1",
    }
    assert not [path for path in tmp_path.rglob("*") if path.is_file() and KEY.encode() in path.read_bytes()]
    for damaged in ("{", "[]", '{"key": "another"}', '{"key": 3, "more": 4}'):
        state.write_text(damaged)
        assert "delete that file" in refused(vendor, tmp_path)


def test_two_at_once_do_not_both_pay(vendor: ScriptedVendor, tmp_path: Path) -> None:
    with Endpoint(vendor.url, FAST) as endpoint:
        first = fine_tune(endpoint, make_order(vendor), tmp_path, lambda _: True)
        next(first)
        assert "another process" in refused(vendor, tmp_path)
        assert isinstance(list(first)[-1], Tuned)
    assert len(vendor.jobs) == 1
