"""A recipe: a declarative, versioned description of one way to absorb."""

from __future__ import annotations

import hashlib
import json
import tomllib
from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from lift.config import Settings, apply_overrides
from lift.errors import RecipeError, nearest_hint

# To be raised where the same settings mean something else than before.
RECIPE_VERSION = 1
# The words around a question, by the names of packing/published_prompts.py.
PromptName = Literal["plain", "loogle-v3", "loogle-v5", "article-v3", "passage-retrieval-v3"]


class SegmentSettings(Settings):
    """Pieces of raw text, trained by language modelling (method 1.1)."""

    weight: float = Field(0.0, ge=0, description="weight of a segment's mean token loss; 0 leaves them out")
    unit: Literal["window", "paragraph", "sentence"] = Field(
        "window",
        description="windows that overlap, or each paragraph or sentence alone, cut where it is longer than "
        "length_tokens",
    )
    titled: bool = Field(True, description="whether the document's title stands above the text that is cut")
    length_tokens: int = Field(2048, ge=8, description="l, tokens of a window")
    step_tokens: int = Field(768, ge=1, description="s, a window starts this many tokens after the one before")

    @model_validator(mode="after")
    def _no_gap(self) -> Self:
        if self.step_tokens > self.length_tokens:
            raise ValueError("step_tokens must not be larger than length_tokens, or text is left out")
        return self


class TaskSettings(Settings):
    """Auxiliary tasks (method 1.2, 3.1)."""

    weight: float = Field(1.0, ge=0, description="gamma, weight of a task's mean token loss; 0 leaves tasks out")
    per_sentence: int = Field(20, ge=1, le=500, description="at most this many tasks a sentence (family B)")
    per_document: int = Field(0, ge=0, description="m, this many tasks in all (family A); 0 sets no limit")
    held_out_per_sentence: int = Field(1, ge=0, le=20, description="tasks a sentence kept for the recall report")
    cited_share: float = Field(
        0.0, ge=0, le=1, description="share that is asked for the sentence that tells the answer, too"
    )
    prompt: PromptName = Field(
        "plain",
        description="the words around a question, in training and when the memory is asked: own or published ones",
    )


class GeneratorSettings(Settings):
    """Who writes the tasks (method 1.2, 3.1); all but `kind` is for the language models among them."""

    kind: Literal["rules", "self", "openai"] = Field("rules", description="rules, the base model, or an endpoint")
    model: str = Field("", description="openai: the model's name at the endpoint")
    base_url: str = Field("", description="openai: where the endpoint is; empty reads OPENAI_BASE_URL")
    form: Literal["questions", "paragraph"] = Field(
        "questions", description="questions and answers, or a summary and which paragraph of the text it is of"
    )
    window_sentences: int = Field(16, ge=1, description="family A: consecutive sentences that a request shows")
    preceding_chars: int = Field(2048, ge=0, description="family B: characters shown before the sentence asked about")
    instruction: str = Field("", description="one more sentence of instruction, for example what to ask about")
    temperature: float = Field(
        0.0, ge=0, le=2, description="0 is greedy; asking again for an unusable reply is always sampled"
    )
    max_output_tokens: int = Field(1024, ge=16, description="longest reply")
    retries: int = Field(4, ge=0, le=20, description="more tries for a request that failed or could not be parsed")
    concurrency: int = Field(64, ge=1, le=1024, description="requests at once")
    stream: bool = Field(False, description="train on the first tasks while later ones are still being written")


class ContextSettings(Settings):
    """Contextualised training: samples with a part of the document in the prompt (method 1.3)."""

    segment_tokens: int = Field(0, ge=0, description="length of c_k before a segment, head and tail piece; 0: none")
    tasks: Literal["none", "truncated"] = Field("none", description="c_q, what the prompt of every task holds")
    window_tokens: int = Field(0, ge=0, description="M, longest prompt of a truncated context; 0: the model's window")
    share: float = Field(0.5, ge=0, le=10, description="tasks asked again behind sentences, as a share of the tasks")
    sentences: int = Field(4, ge=1, description="sentences of such a context: the evidence and others")
    beside_warm_start: bool = Field(
        True, description="whether share counts beside a warm start, too, which reads for its memories"
    )


class RegularisationSettings(Settings):
    """Regularisation towards the base model: KL anchors, replay QA, and WiSE-FT interpolation."""

    kl_share: float = Field(
        0.0, ge=0, description="KL anchors (pieces of other passages) in an epoch, as a share of its groups of tasks"
    )
    kl_weight: float = Field(0.5, ge=0, description="weight of a token of a piece, beside that of an answer's token")
    replay_share: float = Field(
        0.0, ge=0, description="replay QA (other passages with their questions) in an epoch, as a share of its groups"
    )
    wise_ft_alpha: float = Field(
        1.0,
        gt=0,
        le=1,
        description="share of what an absorption has changed that is kept in the end (WiSE-FT interpolation)",
    )


class AdapterSettings(Settings):
    """The adapter that is trained: low-rank ones (rank, alpha, targets) or Gated Memory (width, gate, start)."""

    kind: Literal["lora", "pissa", "dora", "gated-memory"] = Field("lora", description="which adapter")
    layers: tuple[int, ...] = Field((), description="the layers that get one, counted from 0; empty: by upper_share")
    upper_share: float = Field(1.0, gt=0, le=1, description="share of the layers that get one, from the top")
    rank: int = Field(32, ge=1, description="r, rank of the update of each matrix")
    alpha: float = Field(64.0, gt=0, description="the update is scaled by alpha / rank")
    activated: bool = Field(
        False,
        description="LoRA: it acts from the tokens that open the answer on; what stands before is read as the base "
        "reads it (Activated LoRA)",
    )
    targets: Literal["all-linear", "attention", "mlp"] = Field("all-linear", description="which matrices of a layer")
    width: float = Field(2.0, gt=0, le=64, description="hidden width of m, in head dimensions")
    gate: Literal["query", "exact"] = Field("query", description="g from q alone, or with the window's log-sum-exp")
    start: Literal["identity", "published"] = Field("identity", description="initial values of memory and gate")
    warm_start: str = Field(
        "none",
        min_length=1,
        description="LoRA: what was tuned on other texts before: auto (the one that comes with Lift, if the model has "
        "one), none, or a directory",
    )

    @property
    def acts_on_answers(self) -> bool:
        """Whether it acts on answers alone; other kinds than plain LoRA act everywhere."""
        return self.kind == "lora" and self.activated

    def layers_of(self, count: int) -> tuple[int, ...]:
        """The layers that get one in a model of `count` layers; empty for all."""
        if self.layers or self.upper_share == 1:
            return self.layers
        return tuple(range(count - max(1, round(self.upper_share * count)), count))


class ObjectiveSettings(Settings):
    """The training objective, beside the loss on segments and answers."""

    cross_entropy: float = Field(1.0, ge=0, description="weight of the cross-entropy with the answers (hard labels)")
    mean_over: Literal["examples", "tokens"] = Field(
        "examples",
        description="what counts alike in a batch: its examples, however long, or their answer tokens",
    )
    distillation: float = Field(0.0, ge=0, description="weight of matching the base model that reads the evidence")
    gate_penalty: float = Field(0.0, ge=0, description="Gated Memory: weight of the mean gate at answer tokens")
    gate_penalty_on: Literal["all", "in-context"] = Field(
        "all", description="all answers, or those whose evidence is in the prompt (supervise in context)"
    )


class AttentionSettings(Settings):
    """Attention distillation: Gated Memory fitted to a reader's attention before the training (method 2.3)."""

    epochs: int = Field(0, ge=0, description="epochs over the document's queries; 0 leaves it out")
    learning_rate: float = Field(3e-3, gt=0, description="peak rate of AdamW, falling as a cosine")
    weight_decay: float = Field(0.1, ge=0, description="AdamW's decay")
    batch_queries: int = Field(4096, ge=1, description="queries a step, of one layer")
    window_tokens: int = Field(0, ge=0, description="longest piece that is read at once; 0: the model's window")


class UpdateSettings(Settings):
    """Later work on a memory: texts added to it (--into), forgotten sentences rehearsed (--until)."""

    replay_share: float = Field(1.0, ge=0, le=1, description="share of the known tasks that is trained again")
    learning_rate_multiplier: float = Field(0.5, gt=0, description="peak rate of such work, as a share of training's")


class TrainingSettings(Settings):
    """The schedule."""

    epochs: int = Field(8, ge=0, description="epochs over segments and tasks together")
    segment_epochs: int = Field(0, ge=0, description="two-stage: epochs over segments alone before that")
    max_tokens: int = Field(0, ge=0, description="stop after this many tokens computed; 0 sets no limit")
    max_skip_epochs: int = Field(
        1,
        ge=1,
        description="a task whose answer is known skips 2, 4, 8 ... epochs, at most so many (Leitner); 1: none",
    )
    until_recall: float = Field(
        0.0, ge=0, le=1, description="stop once this share of the held-out questions is recalled; 0: never before"
    )
    full_batch: bool = Field(
        False, description="one optimizer step an epoch, its gradient accumulated over all batches"
    )
    learning_rate: float = Field(5e-4, gt=0, description="peak rate of AdamW")
    lora_plus_ratio: float = Field(
        1.0, gt=0, description="LoRA: the rate of B as a multiple of that of A (LoRA+, arXiv 2402.12354)"
    )
    lora_plus_from_zero: bool = Field(True, description="whether that holds without a warm start, too")
    schedule: Literal["constant", "cosine", "linear"] = Field("cosine", description="how the rate falls to zero")
    warmup_share: float = Field(0.03, ge=0, lt=1, description="share of the training in which the rate rises")
    batch_tokens: int = Field(384, ge=16, description="tokens computed at once, shared prefixes counted once")
    batch_examples: int = Field(0, ge=0, description="examples computed at once, at most; 0 sets no limit")
    weight_decay: float = Field(0.0, ge=0, description="AdamW's decay")
    beta1: float = Field(0.9, ge=0, lt=1, description="AdamW's first moment")
    beta2: float = Field(0.98, ge=0, lt=1, description="AdamW's second moment")
    clip: float = Field(1.0, gt=0, description="largest norm of the gradient")
    seed: int = Field(0, ge=0, description="of tasks, adapter and order")


class RemoteSettings(Settings):
    """Fine-tuning through an API (method 4.1, the rows of GPT-3.5)."""

    only: bool = Field(False, description="whether the recipe is for a model at an endpoint alone")
    base_url: str = Field("", description="where the endpoint is; empty reads OPENAI_BASE_URL, else OpenAI's own")
    epochs: int = Field(3, ge=1, le=50, description="epochs over the training file")
    batch_size: Literal["all", "auto"] | Annotated[int, Field(ge=1, le=256)] = Field(
        "all", description="lines an update is made of: all (256 at most), a number, or auto for the endpoint's choice"
    )
    learning_rate_multiplier: float = Field(0.5, gt=0, description="scales the endpoint's own learning rate")
    window_tokens: int = Field(16385, ge=256, description="M, longest prompt with its answer, in estimated tokens")
    poll_s: float = Field(10.0, gt=0, description="seconds between two looks at a running job")
    probes: int = Field(50, ge=0, description="held-out questions asked for the recall report; each is one request")


class Recipe(Settings):
    """One way to absorb."""

    name: str = Field(description="what it is called")
    version: int = Field(1, ge=1, description="rises when its settings change")
    description: str = Field("", description="what it is for, with its source")
    segments: SegmentSettings = SegmentSettings()
    tasks: TaskSettings = TaskSettings()
    generator: GeneratorSettings = GeneratorSettings()
    context: ContextSettings = ContextSettings()
    adapter: AdapterSettings = AdapterSettings()
    regularisation: RegularisationSettings = RegularisationSettings()
    objective: ObjectiveSettings = ObjectiveSettings()
    attention: AttentionSettings = AttentionSettings()
    training: TrainingSettings = TrainingSettings()
    update: UpdateSettings = UpdateSettings()
    remote: RemoteSettings = RemoteSettings()

    @model_validator(mode="after")
    def _something_to_train(self) -> Self:
        if not self.segments.weight and not self.tasks.weight:
            raise ValueError("segments.weight and tasks.weight are both 0, so there is nothing to train")
        if self.training.segment_epochs and not self.segments.weight:
            raise ValueError("training.segment_epochs needs segments.weight above 0")
        if not self.training.segment_epochs + self.training.epochs:
            raise ValueError("training.epochs and training.segment_epochs are both 0, so there is nothing to train")
        if self.adapter.acts_on_answers and self.segments.weight:
            raise ValueError(
                "adapter.activated acts on answers alone, so it learns no segments; set it to false, or "
                "segments.weight to 0"
            )
        if self.tasks.weight and not self.objective.cross_entropy + self.objective.distillation:
            raise ValueError("objective.cross_entropy and objective.distillation are both 0, so tasks teach nothing")
        if self.segments.unit == "sentence" and self.context.segment_tokens:
            raise ValueError(
                "segments.unit sentence is trained bare, as published; set context.segment_tokens to 0, or choose "
                "another segments.unit"
            )
        if self.generator.kind == "self" and self.generator.stream:
            raise ValueError(
                "generator.stream needs another generator than self: the base model cannot write and learn"
            )
        if self.generator.kind == "openai" and not self.generator.model:
            raise ValueError("generator.kind openai needs generator.model, the name of the model at the endpoint")
        if self.generator.form == "paragraph" and self.generator.kind == "rules":
            raise ValueError("generator.form paragraph needs generator.kind self or openai: rules write no summaries")
        if self.generator.form == "paragraph" and not self.tasks.per_document:
            raise ValueError("generator.form paragraph needs tasks.per_document above 0, the number of summaries")
        return self

    def digest(self) -> str:
        """Hash of every setting that can change what is trained here."""
        without: Any = dict.fromkeys(("name", "version", "description", "update", "remote"), True)
        values = self.model_dump(mode="json", exclude={**without, "generator": {"concurrency"}})
        return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()


def recipe_names() -> list[str]:
    """Names of the recipes that come with Lift."""
    return sorted(
        entry.name.removesuffix(".toml")
        for entry in resources.files("lift.recipes").iterdir()
        if entry.name.endswith(".toml")
    )


def load_recipe(name: str | Recipe = "default", overrides: Sequence[str] = ()) -> Recipe:
    """The recipe of that name, or in that TOML file, with "section.key=value" overrides applied.

    Raises RecipeError for an unknown name (with the nearest), an unknown key (likewise), or a value out of range.
    """
    if isinstance(name, Recipe):
        values = name.model_dump()
    elif name in recipe_names():
        values = tomllib.loads(resources.files("lift.recipes").joinpath(f"{name}.toml").read_text("utf-8"))
        values.setdefault("name", name)
    elif name.endswith(".toml") and Path(name).is_file():
        try:
            values = tomllib.loads(Path(name).read_text("utf-8"))
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise RecipeError(f"{name} is not a valid TOML file: {error}") from None
        values.setdefault("name", Path(name).stem)
    else:
        hint = nearest_hint(name, recipe_names(), "the nearest known one is")
        raise RecipeError(f"no recipe {name!r}{hint} (lift recipes lists them all)")
    origin = values["name"] if isinstance(values.get("name"), str) else str(name)
    return Recipe.parse(apply_overrides(values, overrides), f"recipe {origin}")
