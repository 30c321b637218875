"""One side of `lift bench absorb`, trained once: when it had the recall, how fast it was, how much memory it held."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from lift.absorbing.preparation import prepare_document
from lift.absorbing.recall_report import choose_probes, probe_recall
from lift.adapters.attach import create_adapter
from lift.answering.answerer import Answerer
from lift.bench.arithmetic import training_flops
from lift.bench.fixed_batches import as_rows, fixed_batch_sampler
from lift.bench.lift_side import train_with_lift
from lift.bench.machine import PeakMemory, matmul_flops_per_s, matrices_of
from lift.bench.race import Goal, Race
from lift.bench.trainer_side import TrainerOptions, train_with_trainer
from lift.documents.document import Document
from lift.models.base_model import BaseModel
from lift.models.device import stopwatch
from lift.recipes.recipe import Recipe
from lift.tasks.task import Task


@dataclass(frozen=True)
class SideRun:
    """The measurements of one training.

    `reached_s`: seconds until the recall of the goal, None where it was not reached in `trained_s`; `curve`: (seconds,
    recall) of each probe. Tokens: `real` ones of the examples, without padding and as if nothing were shared;
    `computed` ones with padding, shared ones once; `labelled` ones, which carry loss. `matmul_flops_per_s`: the bound,
    measured in the same process. `needed_share`: of that bound, the operations that the real tokens and logits at the
    labels need; `done_share`: those of all positions and logits that were computed. `peak_bytes`: in training alone.
    """

    reached_s: float | None
    trained_s: float
    curve: list[tuple[float, float]]
    real_tokens_per_s: float
    computed_tokens_per_s: float
    labelled_tokens_per_s: float
    matmul_flops_per_s: float
    needed_flops_per_token: float
    needed_share: float
    done_share: float
    peak_bytes: int

    @property
    def recall(self) -> float | None:
        """Recall of the last probe; None where nothing was probed."""
        return self.curve[-1][1] if self.curve else None

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {**asdict(self), "curve": [list(point) for point in self.curve]}


def run_side(
    base: BaseModel,
    document: Document,
    tasks: Sequence[Task],
    recipe: Recipe,
    *,
    seed: int,
    probes: int,
    goal: Goal,
    options: TrainerOptions | None,
) -> SideRun:
    """Train on the tasks with Lift, or with Trainer where there are `options` for it; the model is used up by that.

    At most `probes` of the held-out tasks are asked. Raises what the trainings raise.
    """
    recipe = recipe.model_copy(update={"training": recipe.training.model_copy(update={"seed": seed})})
    made = prepare_document(document, base, recipe)
    sampler = fixed_batch_sampler(made, tasks, base, recipe)
    matrices = matrices_of(base.model, *adapter_shape(base, recipe))
    bound = matmul_flops_per_s(base.model)
    asked = choose_probes(tasks, probes)

    answerer = Answerer.of(base, None, document, made.sentences)

    def recall() -> float:
        training = base.model.training
        base.model.eval()
        report = probe_recall(answerer, len(made.sentences), asked)
        base.model.train(training)
        return sum(probe.recalled for probe in report.probes) / len(report.probes)

    race = Race(goal, recall, stopwatch(base.device), PeakMemory(base.device))
    if options is None:
        counts = train_with_lift(base, sampler, recipe, race)
    else:
        counts = train_with_trainer(base, as_rows(sampler.examples()), recipe, options, race)
    seconds = race.trained_s
    needed = training_flops(matrices, counts.real, counts.labelled)
    done = training_flops(matrices, counts.computed, counts.head, counts.below)
    return SideRun(
        reached_s=race.reached_s,
        trained_s=seconds,
        curve=race.curve,
        real_tokens_per_s=counts.real / seconds,
        computed_tokens_per_s=counts.computed / seconds,
        labelled_tokens_per_s=counts.labelled / seconds,
        matmul_flops_per_s=bound,
        needed_flops_per_token=needed / counts.real,
        needed_share=needed / seconds / bound,
        done_share=done / seconds / bound,
        peak_bytes=race.peak_bytes,
    )


def adapter_shape(base: BaseModel, recipe: Recipe) -> tuple[int, int]:
    """Numbers in an adapter of the recipe, and the first layer that has one."""
    adapter = create_adapter(base.model, recipe.adapter, recipe.training.seed)
    shape = sum(parameter.numel() for parameter in adapter.parameters()), adapter.first_layer
    adapter.detach()
    return shape
