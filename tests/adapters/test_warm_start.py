"""A warm start: tuned on other documents, kept as a directory, and put under every new LoRA."""

from __future__ import annotations

import dataclasses
import json
import shutil
from importlib import resources
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import tiny_llama

import lift
from lift.absorbing.preparation import prepare, prepare_document, prepare_stream
from lift.absorbing.reading_examples import ReadingSettings
from lift.absorbing.resolved_recipe import resolve
from lift.absorbing.reuse import absorption_identity
from lift.absorbing.task_writing import TaskWriter
from lift.absorbing.warm_start_tuning import ReaderSettings, WarmStartSampler, tune_reader, tuning_checkpoint
from lift.adapters.resident import release
from lift.adapters.warm_start import (
    WarmStart,
    find_reader,
    find_warm_start,
    packaged_base_ids,
    read_warm_start,
    start_adapter,
)
from lift.answering.scoring import f1
from lift.cli import run
from lift.documents.document import Document
from lift.documents.read import read_document
from lift.documents.retrieval import SentenceIndex
from lift.documents.sentences import split_sentences
from lift.errors import AdapterError, DataError, WrongBaseModelError
from lift.evaluation.reader import ModelReader, QuestionBatch
from lift.evaluation.records import Question, Record
from lift.models.base_model import BaseModel
from lift.packing.prompts import PLAIN_FORM, Example, preserved_example
from lift.packing.trie import pack
from lift.recipes.recipe import AdapterSettings, ObjectiveSettings, TrainingSettings, load_recipe
from lift.tasks.task_file import TaskFile
from lift.training import batch_sampler
from lift.training.batch_sampler import BatchSampler
from lift.training.objective import Objective

TEXT = "Ada Quill founded the museum. The museum owns 42 lenses. A storm came in 1907. Bram Holt sells the tickets."
RECORD = Record(
    "merrow",
    Document("Merrow", TEXT, "test"),
    (
        Question("1", "Who sells the tickets?", ("Bram Holt",), evidence=("Bram Holt sells the tickets.",)),
        Question("2", "How many lenses are there?", ("42",), evidence=("The museum owns 42 lenses.",)),
    ),
)
SETTINGS = ReaderSettings(
    adapter=AdapterSettings(rank=4, alpha=8.0, upper_share=0.5),
    training=TrainingSettings(epochs=3, learning_rate=1e-2, batch_tokens=128),
)
TOKENS = torch.arange(3, 40)[None]


def tuned(base: BaseModel, records: tuple[Record, ...] = (RECORD,), settings: ReaderSettings = SETTINGS) -> Any:
    found: list[WarmStart] = []
    losses = [step.loss for step in tune_reader(base, records, settings, "CC0", found)]
    return found[0], losses


@pytest.fixture(scope="module")
def tuned_once(tiny_tokenizer: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("tuned") / "start"
    tuned(BaseModel(tiny_llama(), tiny_tokenizer, "tiny", "0" * 64))[0].write(directory)
    return directory


@pytest.fixture
def start(tuned_once: Path, tmp_path: Path) -> Path:
    return shutil.copytree(tuned_once, tmp_path / "start")


def logits(base: BaseModel) -> torch.Tensor:
    with torch.no_grad():
        output: torch.Tensor = base.model(TOKENS).logits
    return output


def at(base: BaseModel, start: Path, **settings: Any) -> torch.Tensor:
    """What the base says at the warm start."""
    adapter = start_adapter(base, AdapterSettings(**settings), 1, read_warm_start(start))
    try:
        return logits(base)
    finally:
        adapter.detach()


def test_tuning_lowers_the_loss_and_leaves_the_base_as_it_was(tiny_model: BaseModel) -> None:
    before = logits(tiny_model)
    point, losses = tuned(tiny_model)
    an_epoch = len(losses) // SETTINGS.training.epochs
    assert sum(losses[-an_epoch:]) < sum(losses[:an_epoch])
    assert torch.equal(logits(tiny_model), before)
    assert point.about.documents == ("Merrow (test)",)
    assert point.about.licence == "CC0"
    assert tuned(tiny_model)[0].digest == point.digest


def test_it_is_read_as_it_was_written(tiny_model: BaseModel, tmp_path: Path) -> None:
    point, _ = tuned(tiny_model)
    point.write(tmp_path)
    read = read_warm_start(tmp_path)
    assert (read.about, read.digest, read.passages) == (point.about, point.digest, point.passages)
    assert {passage.text: passage.questions for passage in read.passages} == {
        "Bram Holt sells the tickets.": (("Who sells the tickets?", "Bram Holt"),),
        "The museum owns 42 lenses.": (("How many lenses are there?", "42"),),
    }
    assert all(torch.equal(read.state[key], point.state[key]) for key in point.state)


def test_a_new_adapter_of_the_same_shape_begins_exactly_there(tiny_model: BaseModel, start: Path) -> None:
    reader = ModelReader(tiny_model, start=read_warm_start(start))
    reader.attach()
    wanted = logits(tiny_model)
    ModelReader(tiny_model).attach()
    assert not torch.allclose(wanted, logits(tiny_model))
    torch.testing.assert_close(at(tiny_model, start, rank=4, alpha=8.0, upper_share=0.5), wanted)


@pytest.mark.parametrize("shape", [{"rank": 9, "alpha": 9.0, "upper_share": 0.5}, {"rank": 7, "alpha": 3.0}])
def test_a_larger_adapter_begins_at_the_same_point(tiny_model: BaseModel, start: Path, shape: Any) -> None:
    wanted = at(tiny_model, start, rank=4, alpha=8.0, upper_share=0.5)
    torch.testing.assert_close(at(tiny_model, start, **shape), wanted, atol=1e-5, rtol=1e-4)


def test_a_smaller_rank_begins_at_the_nearest_update(tiny_model: BaseModel, start: Path) -> None:
    point = read_warm_start(start)
    fresh = start_adapter(tiny_model, AdapterSettings(rank=2, alpha=4.0, upper_share=0.5), 0, None)
    fitted = point.fit(fresh.trained_state(), scaling=2.0)
    fresh.detach()
    for key, up in fitted.items():
        if ".lora_B." in key:
            other = key.replace(".lora_B.", ".lora_A.")
            whole = point.state[key].float() @ point.state[other].float()
            left, values, right = torch.linalg.svd(whole)
            nearest = left[:, :2] * values[:2] @ right[:2]
            torch.testing.assert_close(up @ fitted[other], nearest, atol=1e-5, rtol=1e-3)


def test_layers_that_it_lacks_begin_at_zero(tiny_model: BaseModel, start: Path) -> None:
    before = logits(tiny_model)
    lower = at(tiny_model, start, rank=4, alpha=8.0, layers=(0,))
    assert torch.equal(lower, before)


@pytest.mark.parametrize("settings", [{"kind": "dora"}, {"kind": "gated-memory"}, {"warm_start": "auto"}])
def test_where_none_fits_an_adapter_begins_as_the_base(tiny_model: BaseModel, start: Path, settings: Any) -> None:
    chosen = AdapterSettings(**{"warm_start": str(start), **settings})
    assert find_warm_start(tiny_model, chosen) is None
    assert find_reader(tiny_model, chosen) is None


def test_a_warm_start_in_a_directory_reads_for_the_memories_that_begin_at_it(
    tiny_model: BaseModel, start: Path
) -> None:
    settings = AdapterSettings(warm_start=str(start))
    began, reads = find_warm_start(tiny_model, settings), find_reader(tiny_model, settings)
    assert began is not None and reads is not None
    assert reads.digest == began.digest


def test_the_packaged_reader_is_of_the_same_weights_as_the_packaged_warm_start(tiny_model: BaseModel) -> None:
    started = next(iter(packaged_base_ids()))
    fingerprint = json.loads(
        (resources.files("lift.adapters") / "warm_starts" / started / "warm_start.json").read_text("utf-8")
    )["base_fingerprint"]
    same, wanted = dataclasses.replace(tiny_model, fingerprint=fingerprint), AdapterSettings(warm_start="auto")
    began, reads = find_warm_start(same, wanted), find_reader(same, wanted)
    assert began is not None and reads is not None
    assert reads.about.base_fingerprint == began.about.base_fingerprint
    assert reads.digest != began.digest


def test_one_of_other_weights_is_refused(tiny_model: BaseModel, start: Path) -> None:
    other = dataclasses.replace(tiny_model, fingerprint="1" * 64)
    with pytest.raises(WrongBaseModelError, match="was tuned on other weights"):
        find_warm_start(other, AdapterSettings(warm_start=str(start)))


@pytest.mark.parametrize(
    "name", ["adapter_model.safetensors", "adapter_config.json", "warm_start.json", "passages.jsonl"]
)
def test_a_damaged_one_is_refused_in_a_sentence(tiny_model: BaseModel, start: Path, name: str) -> None:
    content = (start / name).read_bytes()
    (start / name).write_bytes(content[: len(content) // 2])
    with pytest.raises(AdapterError, match="lift warm-start"):
        find_warm_start(tiny_model, AdapterSettings(warm_start=str(start)))
    (start / name).unlink()
    with pytest.raises(AdapterError, match="got none that can be read"):
        find_warm_start(tiny_model, AdapterSettings(warm_start=str(start)))


def test_another_start_makes_another_memory(tiny_model: BaseModel, start: Path, tmp_path: Path) -> None:
    recipe = load_recipe("fast", [f"adapter.warm_start={start}"])
    document = Document("Merrow", TEXT, "test")
    before = absorption_identity(document, tiny_model, resolve(recipe, tiny_model), None).key
    other = ReaderSettings(adapter=SETTINGS.adapter, training=SETTINGS.training.model_copy(update={"epochs": 1}))
    tuned(tiny_model, settings=other)[0].write(start)
    assert absorption_identity(document, tiny_model, resolve(recipe, tiny_model), None).key != before


def test_every_question_comes_up_with_what_proves_its_answer(tiny_model: BaseModel) -> None:
    answered = ReadingSettings(absent_share=0, polar_share=0)
    sampler = WarmStartSampler(tiny_model.tokenizer, [RECORD], ReaderSettings(reading=answered))
    shown = [example for update in sampler.optimizer_steps(0) for example in update.batches[0]]
    prompts = [tiny_model.tokenizer.decode(example.ids) for example in shown]
    assert len(prompts) == sampler.examples
    assert {"Bram Holt sells the tickets." in prompt for prompt in prompts if "Who sells" in prompt} == {True}
    assert {"42 lenses" in prompt for prompt in prompts if "How many" in prompt} == {True}


def test_a_starting_point_can_begin_at_another_one(tiny_model: BaseModel, start: Path) -> None:
    adapter = SETTINGS.adapter.model_copy(update={"warm_start": str(start)})
    losses = tuned(tiny_model, settings=SETTINGS.model_copy(update={"adapter": adapter}))[1]
    assert losses[0] < tuned(tiny_model)[1][0]


def test_questions_without_a_passage_are_refused(tiny_model: BaseModel) -> None:
    unproved = Question("3", "Why?", ("Because of the great war between the kings of the north and the south.",))
    with pytest.raises(DataError, match="got none"):
        tuned(tiny_model, (dataclasses.replace(RECORD, questions=(unproved,)),))


def test_a_tuning_that_was_stopped_goes_on_to_the_same_weights(tiny_model: BaseModel, tmp_path: Path) -> None:
    whole, losses = tuned(tiny_model)
    out = tmp_path / "start"
    checkpoint = tuning_checkpoint(out, tiny_model, [RECORD], SETTINGS)
    begun = tune_reader(tiny_model, [RECORD], SETTINGS, "CC0", [], checkpoint)
    first = [next(begun).loss]
    begun.close()
    found: list[WarmStart] = []
    again = tuning_checkpoint(out, tiny_model, [RECORD], SETTINGS)
    first += [step.loss for step in tune_reader(tiny_model, [RECORD], SETTINGS, "CC0", found, again)]
    assert first == losses
    assert found[0].digest == whole.digest
    again.discard()
    assert not list(tmp_path.glob("start*"))
    other = SETTINGS.model_copy(update={"reading": ReadingSettings(polar_share=0)})
    assert tuning_checkpoint(out, tiny_model, [RECORD], other).directory != checkpoint.directory


def test_tuned_methods_read_at_the_starting_point(tiny_model: BaseModel) -> None:
    batch = QuestionBatch(["Who sells the tickets?"], ["Bram Holt sells the tickets."], PLAIN_FORM, 8)
    plain = ModelReader(tiny_model)
    thorough = SETTINGS.model_copy(update={"training": SETTINGS.training.model_copy(update={"epochs": 20})})
    reader = ModelReader(tiny_model, start=tuned(tiny_model, settings=thorough)[0])
    said = [each.read(batch)[0].text for each in (plain, reader, plain)]
    assert said[0] == said[2] != said[1]
    assert plain.fingerprint != reader.fingerprint


def test_a_passage_costs_nothing_while_the_model_says_what_the_base_says(tiny_model: BaseModel) -> None:
    adapter = start_adapter(tiny_model, AdapterSettings(rank=2), 0, None)
    objective = Objective(tiny_model.model, adapter, ObjectiveSettings(mean_over="tokens"))
    batch = pack([preserved_example(tiny_model.tokenizer("The storm of 1907 drowned the lower town.")["input_ids"])])
    adapter.set_trainable(True)
    assert objective.loss(batch).item() == pytest.approx(0.0, abs=1e-5)
    with torch.no_grad():
        for parameter in adapter.parameters():
            parameter.add_(0.3)
    assert objective.loss(batch).item() > 1e-3
    adapter.detach()


def test_a_memory_trains_on_passages_of_its_starting_point(
    tiny_model: BaseModel, start: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batch_sampler, "KL_PIECE_TOKENS", 12)
    base = tiny_model
    text = "The harbour has two piers. The longer pier was built in 1881 by Ellen Marsh. It is painted green."
    made = prepare_document(Document("Harbour", text, "test"), base, load_recipe("fast"))
    pieces = [
        "adapter.activated=false",
        "regularisation.kl_share=0.5",
        "regularisation.replay_share=0",
    ]
    passages_read = ["regularisation.kl_share=0", "regularisation.replay_share=0.5"]
    seen: list[list[Example]] = []
    for settings in (["regularisation.kl_share=0", "regularisation.replay_share=0"], pieces, passages_read):
        recipe = load_recipe("fast", [f"adapter.warm_start={start}", *settings])
        tasks = TaskFile(task for piece in TaskWriter(made, base, recipe).stream() for task in piece.tasks)
        sampler = prepare(made, tasks, base, resolve(recipe, base)).sampler
        optimizer_steps = list(sampler.optimizer_steps(0))
        assert all(0 <= update.progress < 1 for update in optimizer_steps)
        seen.append([example for update in optimizer_steps for batch in update.batches for example in batch])
    assert not any(example.kl_to_base for example in [*seen[0], *seen[2]])
    bare = [base.tokenizer.decode(example.ids) for example in seen[1] if example.kl_to_base]
    assert bare
    assert all(any(text in passage.text for passage in passages(start)) and 2 <= len(text) <= 12 for text in bare)
    own = len(seen[0])
    assert len(seen[1]) == own + len(bare)
    asked = [base.tokenizer.decode(example.ids) for example in seen[2]]
    assert any("Who sells the tickets?" in prompt or "How many lenses" in prompt for prompt in asked)


@pytest.mark.parametrize("streamed", [False, True])
@pytest.mark.parametrize(
    ("settings", "reads"),
    [
        (["context.beside_warm_start=false"], False),
        (["context.beside_warm_start=true"], True),
        (["context.beside_warm_start=false", "adapter.warm_start=none"], True),
    ],
)
def test_a_memory_is_trained_to_read_where_no_starting_point_reads_for_it(
    tiny_model: BaseModel, start: Path, settings: list[str], reads: bool, streamed: bool
) -> None:
    base = tiny_model
    text = "The harbour has two piers. The longer pier was built in 1881 by Ellen Marsh. It is painted green."
    own = ["context.share=1", "regularisation.kl_share=0", "regularisation.replay_share=0"]
    recipe = load_recipe("default", [*own, f"adapter.warm_start={start}", *settings])
    made = prepare_document(Document("Harbour", text, "test"), base, recipe)
    writer = TaskWriter(made, base, recipe)
    if streamed:
        sampler: BatchSampler = prepare_stream(made, writer.stream(), base, resolve(recipe, base))
        list(sampler.optimizer_steps(0))  # the epoch that follows the writing has no contexts
    else:
        tasks = TaskFile(task for piece in writer.stream() for task in piece.tasks)
        sampler = prepare(made, tasks, base, resolve(recipe, base)).sampler
    examples = [example for update in sampler.optimizer_steps(1) for batch in update.batches for example in batch]
    assert examples
    assert any(example.reads_evidence for example in examples) == reads


@pytest.mark.parametrize(
    ("settings", "hurried"),
    [
        (["adapter.warm_start=none", "training.lora_plus_from_zero=false"], False),
        (["adapter.warm_start=none", "training.lora_plus_from_zero=true"], True),
        (["training.lora_plus_from_zero=false"], True),
    ],
)
def test_b_is_hurried_from_a_starting_point_and_from_zero_where_the_recipe_says_so(
    tiny_model: BaseModel, start: Path, tmp_path: Path, settings: list[str], hurried: bool
) -> None:
    own = [f"adapter.warm_start={start}", "training.epochs=1", "adapter.rank=2", "regularisation.wise_ft_alpha=1"]
    states = []
    for ratio in (1, 4):
        recipe = load_recipe("fast", [*own, *settings, f"training.lora_plus_ratio={ratio}"])
        library = lift.Library(tmp_path / str(ratio), tiny_model)
        memory = lift.absorb(Document("Merrow", TEXT, "test"), tiny_model, recipe=recipe, library=library)
        states.append(memory.stored.load_adapter_state())
    same = all(torch.equal(states[0][key], states[1][key]) for key in states[0])
    assert same != hurried


@pytest.mark.parametrize("activated", [False, True])
def test_memories_with_a_reader_answer_together_as_each_alone(
    tiny_model: BaseModel, start: Path, tmp_path: Path, activated: bool
) -> None:
    library = lift.Library(tmp_path / "library", tiny_model)
    own = [f"adapter.activated={str(activated).lower()}", "training.epochs=2", "adapter.rank=2"]
    recipe = load_recipe("fast", [f"adapter.warm_start={start}", *own])
    texts = {"merrow": TEXT, "harbour": "The harbour has two piers. Ellen Marsh built the longer one in 1881."}
    for name, text in texts.items():
        lift.absorb(Document(name, text, "test"), tiny_model, recipe=recipe, name=name, library=library)
    before = logits(tiny_model)
    questions = [(library[name], question) for question in ("Who sells the tickets?", "When?") for name in texts]
    alone = [dataclasses.replace(memory.ask(question), seconds=0.0) for memory, question in questions]
    together = [dataclasses.replace(answer, seconds=0.0) for answer in lift.ask_many(questions, "auto")]
    assert together == alone
    shutil.rmtree(start)  # memories outlive the directory, and then read themselves
    assert library["merrow"].ask("Who sells the tickets?").context in ("evidence", "none")
    release(tiny_model.model)
    assert torch.equal(logits(tiny_model), before)


def passages(start: Path) -> Any:
    return read_warm_start(start).passages


def test_the_command_makes_one_that_an_absorption_takes(
    tiny_directory: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    line = {"title": "Merrow", "context": TEXT, "questions": []}
    line["questions"] = [
        {"question": each.text, "answers": list(each.answers), "evidence": list(each.evidence)}
        for each in RECORD.questions
    ]
    (tmp_path / "q.jsonl").write_text(json.dumps(line) + "\n", "utf-8")
    out, model = tmp_path / "made", str(tiny_directory)
    assert run(["warm-start", str(tmp_path / "q.jsonl"), "--out", str(out), "--model", model, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["documents"] == 1
    with (tmp_path / "q.jsonl").open("a", encoding="utf-8") as stream:
        stream.write("{\n")
    faulty = ["warm-start", str(tmp_path / "q.jsonl"), "--out", str(tmp_path / "again"), "--model", model]
    assert run(faulty) == 1
    assert "--skip-bad" in capsys.readouterr().err
    assert run([*faulty, "--skip-bad"]) == 0
    assert "left out: q.jsonl, line 2" in capsys.readouterr().err
    (tmp_path / "m.txt").write_text(TEXT, "utf-8")
    arguments = ["absorb", str(tmp_path / "m.txt"), "--model", model, "--recipe", "fast", "--json"]
    quick = ["--set", "training.epochs=1", "--set", f"adapter.warm_start={out}"]
    assert run([*arguments, *quick]) == 0
    assert run(["warm-start", str(tmp_path / "q.jsonl"), "--out", str(out), "--set", "training.epoch=1"]) != 0
    assert "the nearest known one is 'epochs'" in capsys.readouterr().err


def test_options_that_have_no_effect_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = ["--out", str(tmp_path / "made")]
    of_memory = ["warm-start", "--memory", "sft", *out]
    for option, value in (("--set", ["training.epochs=3"]), ("--model", ["smollm2"]), ("--skip-bad", [])):
        assert run([*of_memory, option, *value]) == 2
        said = capsys.readouterr().err
        assert f"leave {option} out" in said and said.count("\n") == 1
    assert run(["warm-start", "q.jsonl", *out, "--library", str(tmp_path)]) == 2
    assert "leave --library out" in capsys.readouterr().err
    assert run(of_memory) == 1  # there is no such memory
    assert "sft" in capsys.readouterr().err


@pytest.mark.slow
def test_the_one_that_comes_with_lift_reads_an_article_that_it_was_not_tuned_on(smollm2: BaseModel) -> None:
    examples = Path(__file__).resolve().parents[2] / "examples"
    article = read_document(examples / "university-of-chicago.txt", title="University of Chicago")
    asked = [json.loads(line) for line in (examples / "questions.jsonl").read_text("utf-8").splitlines()]
    point = find_reader(smollm2, load_recipe("default").adapter)
    assert point is not None
    assert not any("Chicago" in document for document in point.about.documents)
    index = SentenceIndex(split_sentences(article.text))
    shown = [" ".join(found.text for found in index.evidence(each["question"], 3)) for each in asked]
    mean: list[float] = []
    for reader in (ModelReader(smollm2), ModelReader(smollm2, start=point)):
        replies = reader.read(QuestionBatch([each["question"] for each in asked], shown, PLAIN_FORM, 24))
        scores = [f1(reply.text, each["answers"]) for reply, each in zip(replies, asked, strict=True)]
        mean.append(sum(scores) / len(scores))
    ModelReader(smollm2).attach()
    assert mean[1] > mean[0] + 0.2
