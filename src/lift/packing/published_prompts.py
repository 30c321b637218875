"""Prompts that LIFT and its benchmarks were published with, word for word, by name: what a recipe's tasks are asked in.

Sources: the prompt and the closed-book question of LIFT v3 on LooGLE, and that of its tasks on LongBench, from the
scripts of GraphPKU/LIFT (test_loogle_lift_random_icl_prompt.py, test_longbench_for_musique.py); LooGLE's own prompt
from config/task2prompt.json of bigai-nlco/LooGLE (MIT licence), and the closed-book question of LIFT v5 from
pred_lift_loogle.py of MuLabPKU/LIFT; that of PassageRetrieval from dataset2prompt.json of THUDM/LongBench (MIT).
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from lift.packing.prompts import PLAIN_FORM, PromptForm

SYSTEM = "You are a helpful assistant."

# Raw text: the scripts use no chat template there, and no token that begins a text.
_LOOGLE_V3 = PromptForm(
    reading="The article {title}: \n{context}\nPlease answer the question based on {title}.\n"
    "Question: {question}\nAnswer: ",
    closed_book="Based on the article {title}, please answer the following question: {question}",
    chat=False,
    special_tokens=False,
)
_LOOGLE_V5 = PromptForm(
    reading="Please answer the question based on the long texts below. \n{context}\nQuestion: {question}\nAnswer: ",
    closed_book='Please answer the question based on "{title}".\nQuestion: {question}\nAnswer:',
)
_ARTICLE_V3 = PromptForm(
    reading="The article: \n{context}\nPlease answer the question based on the article.\n"
    "Question: {question}\nAnswer: ",
    closed_book="Please answer the following question: {question}",
    system=SYSTEM,
)
_PASSAGE_RETRIEVAL_V3 = PromptForm(
    reading="Here are 30 paragraphs from Wikipedia, along with an abstract. Please determine which paragraph the "
    "abstract is from.\n\n{context}\n\nThe following is an abstract.\n\n{question}\n\n"
    "Please enter the number of the paragraph that the abstract is from. The answer format must be like "
    '"Paragraph 1", "Paragraph 2", etc.\n\nThe answer is: ',
    closed_book="The following is an abstract.\n\n{question}\n\n"
    "Please enter the number of the paragraph that the abstract is from. The answer format must be like "
    '"Paragraph 1", "Paragraph 2", etc.\n\nThe answer is: ',
    system=SYSTEM,
)
PROMPT_FORMS: Mapping[str, PromptForm] = MappingProxyType(
    {
        "plain": PLAIN_FORM,
        "loogle-v3": _LOOGLE_V3,
        "loogle-v5": _LOOGLE_V5,
        "article-v3": _ARTICLE_V3,
        "passage-retrieval-v3": _PASSAGE_RETRIEVAL_V3,
    }
)
