"""Every row of a table: option of an official script -> setting of the recipe that follows it.

Values are typed from the scripts: shells/ and scripts/ of GraphPKU/LIFT (v1 to v3), configs/ and pred/ of MuLabPKU/LIFT
(v4, v5), scripts/gpt3.5 of LuckyGlass/long-context-ttt (v0 and the rows of GPT-3.5). No line of theirs is copied.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from lift.packing.published_prompts import PROMPT_FORMS
from lift.recipes.recipe import Recipe, load_recipe, recipe_names

# What an option of the scripts is in a recipe.
SETTINGS: dict[str, Callable[[Recipe], Any]] = {
    "num_syn_qa": lambda recipe: recipe.tasks.per_document if recipe.tasks.weight else 0,
    "title_option": lambda recipe: int(recipe.segments.titled),
    "model_max_length": lambda recipe: recipe.context.window_tokens,
    "block_size * len_segment": lambda recipe: recipe.segments.length_tokens,
    "block_size * len_offset": lambda recipe: recipe.segments.step_tokens,
    "segments": lambda recipe: recipe.segments.unit,
    "len_lift_icl": lambda recipe: recipe.context.segment_tokens,
    "use_icl": lambda recipe: recipe.context.tasks == "truncated",
    "use_gated_memory": lambda recipe: recipe.adapter.kind == "gated-memory",
    "use_pissa": lambda recipe: recipe.adapter.kind == "pissa",
    "lora_rank": lambda recipe: recipe.adapter.rank,
    "lora_alpha": lambda recipe: recipe.adapter.alpha,
    "target_modules": lambda recipe: recipe.adapter.targets,
    "gather_batches": lambda recipe: recipe.training.full_batch,
    "num_train_epochs": lambda recipe: recipe.training.segment_epochs,
    "involve_qa_epochs": lambda recipe: recipe.training.epochs,
    "qa_epochs": lambda recipe: recipe.training.epochs,
    "learning_rate": lambda recipe: recipe.training.learning_rate,
    "warmup_steps": lambda recipe: (
        recipe.training.warmup_share * (recipe.training.segment_epochs + recipe.training.epochs)
    ),
    "lr_scheduler_type": lambda recipe: recipe.training.schedule,
    "weight_decay": lambda recipe: recipe.training.weight_decay,
    "adam_beta1": lambda recipe: recipe.training.beta1,
    "adam_beta2": lambda recipe: recipe.training.beta2,
    "max_grad_norm": lambda recipe: recipe.training.clip,
    "per_device_train_batch_size": lambda recipe: recipe.training.batch_examples,
    "loss over": lambda recipe: recipe.objective.mean_over,
    "sentences shown": lambda recipe: recipe.generator.window_sentences,
    "paragraphs shown": lambda recipe: recipe.generator.form == "paragraph",
    "tries": lambda recipe: recipe.generator.retries + 1,
    "do_sample": lambda recipe: recipe.generator.temperature > 0,
    "generator is the base model": lambda recipe: recipe.generator.kind == "self",
    "prompt of a task": lambda recipe: PROMPT_FORMS[recipe.tasks.prompt].reading,
    "prompt without the text": lambda recipe: PROMPT_FORMS[recipe.tasks.prompt].closed_book,
    "chat template": lambda recipe: PROMPT_FORMS[recipe.tasks.prompt].chat,
    "add_special_tokens": lambda recipe: PROMPT_FORMS[recipe.tasks.prompt].special_tokens,
    "system": lambda recipe: PROMPT_FORMS[recipe.tasks.prompt].system,
    "num_tasks_per_sentence": lambda recipe: recipe.tasks.per_sentence,
    "max_concurrency": lambda recipe: recipe.generator.concurrency,
    "max_output_tokens": lambda recipe: recipe.generator.max_output_tokens,
    "max_retries": lambda recipe: recipe.generator.retries,
    "preceding characters": lambda recipe: recipe.generator.preceding_chars,
    "seq_length": lambda recipe: recipe.segments.length_tokens,
    "raw text": lambda recipe: recipe.segments.weight > 0,
    "offset": lambda recipe: recipe.segments.step_tokens,
    "n_epochs": lambda recipe: recipe.remote.epochs,
    "batch_size": lambda recipe: recipe.remote.batch_size,
    "learning_rate_multiplier": lambda recipe: recipe.remote.learning_rate_multiplier,
}

COMMON = {
    "model_max_length": 7800,
    "gather_batches": True,
    "weight_decay": 1e-4,
    "adam_beta1": 0.9,
    "adam_beta2": 0.98,
    "max_grad_norm": 1.0,
    "lr_scheduler_type": "constant",
    "loss over": "tokens",  # transformers 4.47.1 divides by the labels of all accumulated batches
}
WINDOWS = {"segments": "window", "block_size * len_segment": 8 * 256, "block_size * len_offset": 3 * 256}
CONTEXT = {"len_lift_icl": 4096}
LOOGLE_PROMPT = {
    "prompt of a task": "The article {title}: \n{context}\nPlease answer the question based on {title}.\n"
    "Question: {question}\nAnswer: ",
    "prompt without the text": "Based on the article {title}, please answer the following question: {question}",
    "chat template": False,
    "add_special_tokens": False,
}
ARTICLE_PROMPT = {
    "prompt of a task": "The article: \n{context}\nPlease answer the question based on the article.\n"
    "Question: {question}\nAnswer: ",
    "chat template": True,
    "system": "You are a helpful assistant.",
}
RETRIEVAL_PROMPT = {
    "prompt of a task": "Here are 30 paragraphs from Wikipedia, along with an abstract. Please determine which "
    "paragraph the abstract is from.\n\n{context}\n\nThe following is an abstract.\n\n{question}\n\nPlease enter the "
    'number of the paragraph that the abstract is from. The answer format must be like "Paragraph 1", "Paragraph 2", '
    "etc.\n\nThe answer is: ",
    "chat template": True,
    "system": "You are a helpful assistant.",
}
LOOGLE = WINDOWS | CONTEXT | LOOGLE_PROMPT | {
    "num_syn_qa": 10,
    "title_option": 1,
    "use_icl": True,
    "sentences shown": 16,
    "tries": 5,
    "do_sample": False,
    "generator is the base model": True,
}  # fmt: skip
# the options of a LongBench script have no title
LONGBENCH = {"title_option": 0, "use_gated_memory": True}
ALONE = {"num_syn_qa": 0, "num_train_epochs": 8, "involve_qa_epochs": 0, "learning_rate": 1e-3, "warmup_steps": 0}
MIXED = {
    "num_train_epochs": 3,
    "involve_qa_epochs": 5,
    "learning_rate": 2e-3,
    "warmup_steps": 4,
    "use_icl": True,
    "do_sample": True,
    "generator is the base model": True,
}
V5 = {
    "raw text": False,
    "num_tasks_per_sentence": 10,  # generator/vllm-qwen2.5-everysentence-10
    "max_concurrency": 64,
    "max_output_tokens": 8000,
    "max_retries": 4,
    "preceding characters": 2048,
    "lora_rank": 128,
    "lora_alpha": 256,
    "target_modules": "all-linear",
    "per_device_train_batch_size": 4,
    "weight_decay": 0.0,
    "lr_scheduler_type": "constant",
    "prompt of a task": "Please answer the question based on the long texts below. \n{context}\n"
    "Question: {question}\nAnswer: ",
    "prompt without the text": 'Please answer the question based on "{title}".\nQuestion: {question}\nAnswer:',
    "chat template": True,
    "gather_batches": False,
    "loss over": "tokens",
}

SCRIPTS: list[tuple[str, str, list[str], dict[str, Any]]] = [
    ("shells/LooGLE_main/Llama-LIFT-ShortQA.sh", "lift-v3", [], COMMON | LOOGLE | {
        "use_gated_memory": True, "num_train_epochs": 3, "involve_qa_epochs": 5, "learning_rate": 1e-3,
        "warmup_steps": 0,
    }),
    ("shells/LooGLE_main/Gemma-LIFT-ShortQA.sh", "lift-v3-pissa", [], COMMON | LOOGLE | {
        "use_gated_memory": False, "use_pissa": True, "lora_rank": 128, "num_train_epochs": 1,
        "involve_qa_epochs": 3, "learning_rate": 3e-5, "warmup_steps": 0,
    }),
    ("shells/GatedMemory_ablation/PiSSA-ShortQA.sh", "lift-v3-pissa",
     ["training.learning_rate=1e-5", "training.segment_epochs=2"], COMMON | LOOGLE | {
        "use_pissa": True, "lora_rank": 128, "num_train_epochs": 2, "involve_qa_epochs": 3, "learning_rate": 1e-5,
    }),
    ("shells/CT_ablation/ShortQA-woCT.sh", "lift-v3", ["context.segment_tokens=0"], COMMON | LOOGLE | {
        "len_lift_icl": 0, "num_train_epochs": 3, "involve_qa_epochs": 5, "learning_rate": 1e-3,
    }),
    ("shells/QA_ablation/ShortQA-30QA.sh", "lift-v3", ["tasks.per_document=30"], COMMON | LOOGLE | {
        "num_syn_qa": 30, "num_train_epochs": 3, "involve_qa_epochs": 5, "learning_rate": 1e-3,
    }),
    ("shells/LongBench_main/Llama-LIFT-gov_report.sh", "lift-v3-govreport", [],
     COMMON | WINDOWS | CONTEXT | LONGBENCH | ALONE),
    ("shells/LongBench_main/Llama-LIFT-qmsum.sh", "lift-v3-qmsum", [],
     COMMON | WINDOWS | CONTEXT | LONGBENCH | ALONE),
    ("shells/LongBench_main/Llama-LIFT-musique.sh", "lift-v3-musique", [],
     COMMON | WINDOWS | CONTEXT | LONGBENCH | MIXED | ARTICLE_PROMPT | {"num_syn_qa": 10, "tries": 3}),
    ("shells/LongBench_main/Llama-LIFT-narrativeqa.sh", "lift-v3-narrativeqa", [],
     COMMON | WINDOWS | CONTEXT | LONGBENCH | MIXED | ARTICLE_PROMPT | {"num_syn_qa": 30, "tries": 3}),
    # in scripts/test_longbench_for_passage_retrievalv2.py the paragraphs stand bare, from their first token on
    ("shells/LongBench_main/Llama-LIFT-passage_retrieval_en.sh", "lift-v3-passage-retrieval", [],
     COMMON | LONGBENCH | MIXED | RETRIEVAL_PROMPT | {
        "num_syn_qa": 60, "segments": "paragraph", "len_lift_icl": 0, "paragraphs shown": True,
    }),
    ("configs/training/lift_lora.yaml", "lift-v5", [], V5 | {"qa_epochs": 5, "learning_rate": 5e-5}),
    ("configs/training/lift_lora_fast.yaml", "lift-v5-fast", [], V5 | {"qa_epochs": 1, "learning_rate": 3e-4}),
    ("configs/generator/vllm-qwen2.5-everysentence-5.yaml", "lift-v5", ["tasks.per_sentence=5"],
     {"num_tasks_per_sentence": 5}),
    ("pred/niah/pred_finetune_raw_niah.py", "finetune-raw", [], {
        "segments": "sentence", "seq_length": 1024, "raw text": True, "len_lift_icl": 0, "title_option": 0,
        "lora_rank": 128, "lora_alpha": 256, "target_modules": "all-linear", "num_train_epochs": 5,
        "involve_qa_epochs": 0, "learning_rate": 5e-5, "lr_scheduler_type": "cosine", "weight_decay": 0.0,
        "per_device_train_batch_size": 4, "num_syn_qa": 0, "loss over": "tokens",
    }),
    ("scripts/gpt3.5/loogle.py", "openai-finetune", [], {
        "block_size * len_segment": 2048, "offset": 1024, "n_epochs": 3, "batch_size": "all",
        "learning_rate_multiplier": 0.5,
    }),
]  # fmt: skip


@pytest.mark.parametrize(
    ("recipe", "overrides", "values"), [row[1:] for row in SCRIPTS], ids=[row[0] for row in SCRIPTS]
)
def test_a_recipe_does_what_the_official_script_does(recipe: str, overrides: list[str], values: dict[str, Any]) -> None:
    loaded = load_recipe(recipe, overrides)
    assert {option: SETTINGS[option](loaded) for option in values} == values


def test_every_published_recipe_has_a_script_or_says_that_values_were_not_found() -> None:
    held = {recipe for _, recipe, _, _ in SCRIPTS}
    without = set(recipe_names()) - {"default", "fast", "portable"} - held
    assert {name for name in without if "not found" not in load_recipe(name).description} == set()
