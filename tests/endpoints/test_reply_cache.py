"""Replies kept on disk: by what determines them, from many threads, and whatever the file is."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from lift.endpoints.reply_cache import REPLIES_FILE, ReplyCache, request_key
from lift.errors import ReplyCacheError


def test_a_key_is_of_everything_that_determines_a_reply_and_of_no_order() -> None:
    key = request_key(model="m", prompt="p", temperature=0.0)
    assert key == request_key(temperature=0.0, prompt="p", model="m")
    assert len({key, request_key(model="m", prompt="q", temperature=0.0), request_key(model="m", prompt="p")}) == 3


def test_threads_and_caches_of_one_directory_see_what_any_of_them_has_kept(tmp_path: Path) -> None:
    with ReplyCache(tmp_path) as cache, ReplyCache(tmp_path) as other:

        def keep(number: int) -> None:
            for each in range(20):
                cache.put(f"{number}-{each}", f"reply {number}-{each}")

        threads = [threading.Thread(target=keep, args=(number,)) for number in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        keys = [f"{number}-{each}" for number in range(4) for each in range(20)]
        assert other.count(keys) == 80
        assert other.get("3-7") == "reply 3-7"
        assert other.get("none") is None


@pytest.mark.parametrize("damage", [b"no database", b"not a database at all" * 100])
def test_a_damaged_file_is_named_in_one_sentence_and_left_as_it_is(tmp_path: Path, damage: bytes) -> None:
    (tmp_path / REPLIES_FILE).write_bytes(damage)
    with pytest.raises(ReplyCacheError, match="remove the file") as caught:
        ReplyCache(tmp_path)
    assert "\n" not in str(caught.value) and str(tmp_path / REPLIES_FILE) in str(caught.value)
    assert (tmp_path / REPLIES_FILE).read_bytes() == damage
