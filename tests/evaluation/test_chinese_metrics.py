"""LongBench's scorers of Chinese answers, against values worked out by hand from their definitions."""

from __future__ import annotations

import pytest

from lift.errors import DataError
from lift.evaluation.metrics import score


def test_chinese_words_are_compared_without_marks_and_case() -> None:
    assert score("北京。", ["北京"], ["longbench_qa_f1_zh"]) == {"longbench_qa_f1_zh": 1.0}
    assert score("上海", ["北京"], ["longbench_qa_f1_zh"]) == {"longbench_qa_f1_zh": 0.0}
    # 北京 | 大学 against 北京: one of two words is right, and all that was wanted is there
    assert score("北京,大学", ["北京"], ["longbench_qa_f1_zh"])["longbench_qa_f1_zh"] == pytest.approx(2 / 3)


def test_a_chinese_summary_is_scored_by_the_words_that_jieba_finds() -> None:
    same = score("会议 讨论 了 预算", ["会议讨论了预算"], ["longbench_rouge_zh"])["longbench_rouge_zh"]
    assert same > 0.9
    assert score("苹果", ["会议讨论了预算"], ["longbench_rouge_zh"]) == {"longbench_rouge_zh": 0.0}


def test_a_paragraph_is_found_by_its_number() -> None:
    assert score("段落12", ["段落12"], ["longbench_retrieval_zh"]) == {"longbench_retrieval_zh": 1.0}
    assert score("段落1或段落2", ["段落2"], ["longbench_retrieval_zh"]) == {"longbench_retrieval_zh": 0.5}
    with pytest.raises(DataError, match="段落7"):
        score("1", ["Paragraph 1"], ["longbench_retrieval_zh"])
