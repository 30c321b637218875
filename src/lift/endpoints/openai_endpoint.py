"""One endpoint of OpenAI's shape: how it is reached, what is tried again, and what each refusal means in a sentence."""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NoReturn, Self, TypeVar
from urllib.parse import urlsplit

import tenacity

from lift.endpoints.retry_policy import RetryPolicy, TransientFault, fault_of, is_transient, retry_after_s
from lift.errors import InterruptedAbsorption, RemoteError, UsageError

if TYPE_CHECKING:
    from openai import APIStatusError, OpenAI

_Result = TypeVar("_Result")
OPENAI_URL = "https://api.openai.com/v1"
_KEY_VARIABLE = "OPENAI_API_KEY"
_URL_VARIABLE = "OPENAI_BASE_URL"
_LONGEST_MESSAGE_CHARS = 400


class EndpointRefusal(RemoteError):
    """The endpoint said no, and will say so again. `code` and `param` are its own words, empty where it gave none."""

    def __init__(self, sentence: str, status: int, code: str = "", param: str = "") -> None:
        super().__init__(sentence)
        self.status = status
        self.code = code
        self.param = param


class MalformedReply(ValueError):
    """A reply that is not what the interface promises."""


def resolve_base_url(chosen: str = "") -> str:
    """`chosen`, else OPENAI_BASE_URL, else OpenAI's own, without a slash at its end.

    Raises UsageError where it is no http(s) URL, or carries a user name, password or query: it is kept with the memory,
    and a secret must not be.
    """
    url = (chosen or os.environ.get(_URL_VARIABLE, "") or OPENAI_URL).strip().rstrip("/")
    with contextlib.suppress(ValueError):
        parts = urlsplit(url)
        if parts.username or parts.password or parts.query or parts.fragment:
            raise UsageError(
                "expected a base URL without user name, password and query, got one with such a part; "
                f"put the secret into {_KEY_VARIABLE}"
            )
        if parts.scheme in ("http", "https") and parts.hostname:
            return url
    raise UsageError(f"expected a base URL such as {OPENAI_URL}, got {url!r}")


class Endpoint:
    """Requests to the endpoint at `url`, repeated by the rules of `retry_policy`; `retries` counts the repetitions.

    Usable from several threads. The API key is read from OPENAI_API_KEY and kept nowhere else. Raises RemoteError
    where there is none, or where the package openai is not installed.
    """

    def __init__(self, url: str, retry_policy: RetryPolicy | None = None, stop: threading.Event | None = None) -> None:
        self.url = url
        self.retry_policy = retry_policy or RetryPolicy()
        self.stop = stop or threading.Event()
        self.retries = 0
        self._lock = threading.Lock()
        self._api_key = os.environ.get(_KEY_VARIABLE, "").strip()
        if not self._api_key:
            raise RemoteError(f"expected an API key for {url} in {_KEY_VARIABLE}, found none; set it, then try again")
        self.client: OpenAI = _open_client(url, self._api_key, self.retry_policy.timeout_s)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.client.close()

    def call(self, action: str, request: Callable[[], _Result]) -> _Result:
        """The result of `request`, repeated while it fails in a way that may pass. `action` completes "could not ...".

        Only for requests that may be carried out twice. Raises Refusal at once where the endpoint refuses, RemoteError
        where its tries are used up, InterruptedAbsorption where `stop` is set meanwhile.
        """
        return self.repeat(action, lambda: self.once(action, request))

    def repeat(self, action: str, attempt: Callable[[], _Result]) -> _Result:
        """The result of `attempt`, made again while it raises TransientFault; raises as call does."""

        def note(_: tenacity.RetryCallState) -> None:
            with self._lock:
                self.retries += 1

        def sleep(wait_s: float) -> None:
            if self.stop.wait(wait_s):
                raise InterruptedAbsorption(
                    f"stopped while trying again to {action} at {self.url}; the same command goes on from here"
                )

        def give_up(state: tenacity.RetryCallState) -> NoReturn:
            fault = fault_of(state)
            raise RemoteError(
                f"could not {action} at {self.url} in {state.attempt_number} tries, the last time: {fault}; "
                "try again later, the same command goes on from here"
            ) from fault

        options = self.retry_policy.options()
        retrying = tenacity.Retrying(sleep=sleep, before_sleep=note, retry_error_callback=give_up, **options)
        return retrying(attempt)

    def once(self, action: str, request: Callable[[], _Result]) -> _Result:
        """The result of `request`, tried once; raises TransientFault, or Refusal."""
        import openai

        try:
            return request()
        except openai.APITimeoutError:
            raise TransientFault(f"no reply within {self.retry_policy.timeout_s:g} s") from None
        except openai.APIConnectionError as error:
            raise TransientFault(f"the connection failed ({error.__cause__ or error})") from None
        except openai.APIStatusError as error:
            raise self._judge(action, error) from None
        except (ValueError, AttributeError, TypeError) as error:
            # half a reply, or a page of some gateway in its place: the client itself stumbles over some of these
            what = str(error) if isinstance(error, MalformedReply) else "it is not the JSON that was expected"
            raise TransientFault(f"the reply cannot be understood: {what}") from None

    def _judge(self, action: str, error: APIStatusError) -> EndpointRefusal | TransientFault:
        """The error that a status other than success means."""
        status = error.status_code
        code, param, said = error.code or "", error.param or "", self._message(error)
        if status == 429 and "insufficient_quota" in (code, error.type):
            advice = "add credit to the account, then run the same command again"
            return EndpointRefusal(
                f"the account's quota at {self.url} is used up ({said}); {advice}", status, code, param
            )
        not_ready = status == 400 and ("being processed" in said or "not ready" in said)
        if is_transient(error) or not_ready:
            what = "the rate limit was reached" if status == 429 else f"it answered {status}"
            return TransientFault(f"{what} ({said})", retry_after_s(error.response.headers))
        if status in (401, 403):
            return EndpointRefusal(
                f"{self.url} does not accept the API key for this ({said}); set {_KEY_VARIABLE} to one that may "
                f"{action}",
                status,
                code,
                param,
            )
        if code == "model_not_found" or (param == "model" and status in (400, 404)):
            sentence = f"{self.url} does not offer that model ({said}); choose one that it offers for this"
            return EndpointRefusal(sentence, status, code or "model_not_found", param)
        about = f", about {param}" if param else ""
        return EndpointRefusal(f"could not {action}: {self.url} answered {status} ({said}{about})", status, code, param)

    def _message(self, error: APIStatusError) -> str:
        body = error.body
        said = body.get("message") if isinstance(body, dict) else None
        text = " ".join(said.split()) if isinstance(said, str) and said.strip() else "without a reason"
        # some endpoints repeat the key that they refuse
        return text.replace(self._api_key, "[the key]")[:_LONGEST_MESSAGE_CHARS].rstrip(".")


def text_of(reply: Any, field: str) -> str:
    """The text in `field` of a reply; raises MalformedReply where there is none."""
    value = getattr(reply, field, None)
    if not isinstance(value, str) or not value:
        raise MalformedReply(f"expected text as its {field}, got {value!r:.80}")
    return value


def list_of(reply: Any, field: str = "data") -> list[Any]:
    """The list in `field` of a reply; raises MalformedReply where there is none."""
    value = getattr(reply, field, None)
    if not isinstance(value, list):
        raise MalformedReply(f"expected a list as its {field}, got {value!r:.80}")
    return value


def _open_client(url: str, api_key: str, timeout_s: float) -> OpenAI:
    try:
        from openai import OpenAI
    except ImportError:
        raise RemoteError(
            "a model behind an API needs the package openai, which is not installed; run: make setup EXTRAS=openai"
        ) from None
    return OpenAI(api_key=api_key, base_url=url, timeout=timeout_s, max_retries=0)
