"""LooGLE's own judge, which the papers' scores are of: one question, a reference and an answer, True or False.

Its words are those of Evaluation/llm_score.py of bigai-nlco/LooGLE (MIT licence), misspelling included. It is asked
once, takes any reply that holds "true", and can be told by an answer what to say: Lift's own judge (judge.py) stands
beside it.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from lift.endpoints.openai_endpoint import Endpoint, resolve_base_url
from lift.endpoints.reply_cache import ReplyCache, request_key
from lift.endpoints.retry_policy import RetryPolicy
from lift.errors import RemoteError
from lift.evaluation.judge import Item, Verdict
from lift.evaluation.remote_reader import complete_chat
from lift.remote.remote_model import remote_name

SYSTEM = (
    "Given one question, there is a groundtruth and a predict_answer. Please decide whether they are the same or not "
    "in semantic. Please only output 'True' or 'False' ."
)
_MAX_REPLY_TOKENS = 10


class LoogleJudge:
    """Asks the model called `model` at `endpoint`, greedily, up to `workers` requests at once; replies are kept."""

    def __init__(self, endpoint: Endpoint, model: str, cache: ReplyCache, workers: int = 8) -> None:
        self.model = model
        self._endpoint = endpoint
        self._cache = cache
        self._workers = workers

    def grade(self, question: str, references: Sequence[str], answer: str) -> Verdict:
        """Whether a reply holds "true" for any of the references; "undecided" where the judge cannot be asked."""
        replies: list[str] = []
        for reference in references:
            try:
                replies.append(self._ask(question, reference, answer))
            except RemoteError as error:
                return Verdict("undecided", tuple(replies), str(error))
            if "true" in replies[-1].lower():
                return Verdict("right", tuple(replies), None)
        return Verdict("wrong", tuple(replies), None)

    def grade_many(self, items: Sequence[Item]) -> list[Verdict]:
        """The verdict on each (question, references, answer), in order; none is left out."""
        with ThreadPoolExecutor(max_workers=max(1, min(self._workers, len(items)))) as pool:
            return list(pool.map(lambda item: self.grade(*item), items))

    def _ask(self, question: str, reference: str, answer: str) -> str:
        asked = f"Question: {question}\ngroudtruth = {reference}\npredict_answer = {answer}"
        key = request_key(model=self.model, url=self._endpoint.url, system=SYSTEM, prompt=asked)
        reply = self._cache.get(key)
        if reply is None:
            reply = complete_chat(self._endpoint, self.model, asked, _MAX_REPLY_TOKENS, SYSTEM).text
            self._cache.put(key, reply)
        return reply


def open_loogle_judge(name: str, out: Path, retry_policy: RetryPolicy | None = None) -> LoogleJudge:
    """The judge NAME or openai:NAME at OPENAI_BASE_URL, its replies kept with the evaluation; raises as open_judge."""
    endpoint = Endpoint(resolve_base_url(), retry_policy)
    return LoogleJudge(endpoint, remote_name(name) or name, ReplyCache(out / "cache"))
