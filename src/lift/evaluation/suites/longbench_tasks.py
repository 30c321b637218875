"""The tasks of LongBench, as published: prompts, answer lengths, metrics and exceptions.

Quoted from https://github.com/THUDM/LongBench (MIT licence, commit 2e00731): prompts from
LongBench/config/dataset2prompt.json, answer lengths from dataset2maxlen.json, metrics from eval.py, and which tasks are
asked without a chat template or scored by their first line from pred.py and eval.py. The misspelling in the prompt of
narrativeqa is theirs.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from lift.evaluation.records import Asking
from lift.packing.prompts import PromptForm

QA_METRIC = "longbench_qa_f1"
SUMMARY_METRIC = "longbench_rouge"
LABEL_METRIC = "longbench_classification"
QA_METRIC_ZH = "longbench_qa_f1_zh"
SUMMARY_METRIC_ZH = "longbench_rouge_zh"
_PASSAGES_PROMPT = (
    "Answer the question based on the given passages. Only give me the answer and do not output any other words.\n\n"
    "The following are given passages.\n{context}\n\n"
    "Answer the question based on the given passages. Only give me the answer and do not output any other words.\n\n"
    "Question: {input}\nAnswer:"
)
_EXAMPLES_SENTENCE = re.compile(r" [^.]*\bexamples\b[^.]*\.")
_BLANK_LINES = re.compile(r"\n{3,}")


@dataclass(frozen=True)
class LongBenchTask:
    """One task. `prompt` has the official slots {context} and {input}.

    `instruction` is what its prompt asks for, where the data has no input. `chat`: whether the chat template is used.
    """

    name: str
    prompt: str
    max_new_tokens: int
    metric: str
    instruction: str = ""
    chat: bool = True
    first_line: bool = False

    @property
    def asking(self) -> Asking:
        """How its questions are put and scored; a judge is asked where the answer is free text."""
        form = PromptForm(_question_slot(self.prompt), _question_slot(without_document(self.prompt)), self.chat)
        judged = self.metric in {QA_METRIC, SUMMARY_METRIC, QA_METRIC_ZH, SUMMARY_METRIC_ZH}
        return Asking(form, self.max_new_tokens, (self.metric,), self.first_line, judged)


def without_document(prompt: str) -> str:
    """The closed-book form of an official prompt.

    Where an instruction (a sentence with a stop) stands behind the document, everything up to the document is dropped:
    it announces the document and says the same again. Where only the input or the answer's cue stands there, what is
    before the document stays, without the sentence that announces examples.
    """
    before, _, behind = prompt.partition("{context}")
    if "." in behind or "。" in behind:
        return behind.lstrip()
    return _BLANK_LINES.sub("\n\n", _EXAMPLES_SENTENCE.sub("", before) + behind)


def _question_slot(prompt: str) -> str:
    return prompt.replace("{input}", "{question}")


LONGBENCH_TASKS = (
    LongBenchTask(
        "narrativeqa",
        "You are given a story, which can be either a novel or a movie script, and a question. Answer the question "
        "asconcisely as you can, using a single phrase if possible. Do not provide any explanation.\n\n"
        "Story: {context}\n\n"
        "Now, answer the question based on the story asconcisely as you can, using a single phrase if possible. "
        "Do not provide any explanation.\n\nQuestion: {input}\n\nAnswer:",
        128,
        QA_METRIC,
    ),
    LongBenchTask(
        "qasper",
        "You are given a scientific article and a question. Answer the question as concisely as you can, using a "
        "single phrase or sentence if possible. If the question cannot be answered based on the information in the "
        'article, write "unanswerable". If the question is a yes/no question, answer "yes", "no", or "unanswerable". '
        "Do not provide any explanation.\n\nArticle: {context}\n\n"
        " Answer the question based on the above article as concisely as you can, using a single phrase or sentence if "
        "possible. If the question cannot be answered based on the information in the article, write "
        '"unanswerable". If the question is a yes/no question, answer "yes", "no", or "unanswerable". '
        "Do not provide any explanation.\n\nQuestion: {input}\n\nAnswer:",
        128,
        QA_METRIC,
    ),
    LongBenchTask(
        "multifieldqa_en",
        "Read the following text and answer briefly.\n\n{context}\n\n"
        "Now, answer the following question based on the above text, only give me the answer and do not output any "
        "other words.\n\nQuestion: {input}\nAnswer:",
        64,
        QA_METRIC,
    ),
    LongBenchTask("hotpotqa", _PASSAGES_PROMPT, 32, QA_METRIC),
    LongBenchTask("2wikimqa", _PASSAGES_PROMPT, 32, QA_METRIC),
    LongBenchTask("musique", _PASSAGES_PROMPT, 32, QA_METRIC),
    LongBenchTask(
        "gov_report",
        "You are given a report by a government agency. Write a one-page summary of the report.\n\n"
        "Report:\n{context}\n\nNow, write a one-page summary of the report.\n\nSummary:",
        512,
        SUMMARY_METRIC,
        "Write a one-page summary of the report.",
    ),
    LongBenchTask(
        "qmsum",
        "You are given a meeting transcript and a query containing a question or instruction. Answer the query in one "
        "or more sentences.\n\nTranscript:\n{context}\n\n"
        "Now, answer the query based on the above meeting transcript in one or more sentences.\n\n"
        "Query: {input}\nAnswer:",
        512,
        SUMMARY_METRIC,
    ),
    LongBenchTask(
        "multi_news",
        "You are given several news passages. Write a one-page summary of all news. \n\n"
        "News:\n{context}\n\nNow, write a one-page summary of all the news.\n\nSummary:",
        512,
        SUMMARY_METRIC,
        "Write a one-page summary of all news.",
    ),
    LongBenchTask(
        "trec",
        "Please determine the type of the question below. Here are some examples of questions.\n\n{context}\n{input}",
        64,
        LABEL_METRIC,
        chat=False,
        first_line=True,
    ),
    LongBenchTask(
        "triviaqa",
        "Answer the question based on the given passage. Only give me the answer and do not output any other words. "
        "The following are some examples.\n\n{context}\n\n{input}",
        32,
        QA_METRIC,
        chat=False,
        first_line=True,
    ),
    LongBenchTask(
        "samsum",
        "Summarize the dialogue into a few short sentences. The following are some examples.\n\n{context}\n\n{input}",
        128,
        SUMMARY_METRIC,
        chat=False,
        first_line=True,
    ),
    LongBenchTask(
        "passage_count",
        "There are some paragraphs below sourced from Wikipedia. Some of them may be duplicates. Please carefully read "
        "these paragraphs and determine how many unique paragraphs there are after removing duplicates. In other "
        "words, how many non-repeating paragraphs are there in total?\n\n{context}\n\n"
        "Please enter the final count of unique paragraphs after removing duplicates. The output format should only "
        "contain the number, such as 1, 2, 3, and so on.\n\nThe final answer is: ",
        32,
        "longbench_count",
        "How many non-repeating paragraphs are there in total?",
    ),
    LongBenchTask(
        "passage_retrieval_en",
        "Here are 30 paragraphs from Wikipedia, along with an abstract. Please determine which paragraph the abstract "
        "is from.\n\n{context}\n\nThe following is an abstract.\n\n{input}\n\n"
        "Please enter the number of the paragraph that the abstract is from. The answer format must be like "
        '"Paragraph 1", "Paragraph 2", etc.\n\nThe answer is: ',
        32,
        "longbench_retrieval",
    ),
    LongBenchTask(
        "lcc",
        "Please complete the code given below. \n{context}Next line of code:\n",
        64,
        "longbench_code_sim",
        "Please complete the code given below.",
        chat=False,
    ),
    LongBenchTask(
        "repobench-p",
        "Please complete the code given below. \n{context}{input}Next line of code:\n",
        64,
        "longbench_code_sim",
        chat=False,
    ),
    LongBenchTask(
        "multifieldqa_zh",
        "阅读以下文字并用中文简短回答：\n\n{context}\n\n"
        "现在请基于上面的文章回答下面的问题，只告诉我答案，不要输出任何其他字词。\n\n问题：{input}\n回答：",
        64,
        QA_METRIC_ZH,
    ),
    LongBenchTask(
        "dureader",
        "请基于给定的文章回答下述问题。\n\n文章：{context}\n\n请基于上述文章回答下面的问题。\n\n问题：{input}\n回答：",
        128,
        SUMMARY_METRIC_ZH,
    ),
    LongBenchTask(
        "vcsum",
        "下面有一段会议记录，请你阅读后，写一段总结，总结会议的内容。\n会议记录：\n{context}\n\n会议总结：",
        512,
        SUMMARY_METRIC_ZH,
        "写一段总结，总结会议的内容。",
    ),
    LongBenchTask(
        "lsht",
        "请判断给定新闻的类别，下面是一些例子。\n\n{context}\n{input}",
        64,
        LABEL_METRIC,
        chat=False,
        first_line=True,
    ),
    LongBenchTask(
        "passage_retrieval_zh",
        "以下是若干段落文字，以及其中一个段落的摘要。请确定给定的摘要出自哪一段。\n\n{context}\n\n下面是一个摘要\n\n{input}\n\n"
        '请输入摘要所属段落的编号。答案格式必须是"段落1"，"段落2"等格式\n\n答案是：',
        32,
        "longbench_retrieval_zh",
    ),
)
