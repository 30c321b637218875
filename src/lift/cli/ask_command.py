"""`lift ask` and `lift chat`: questions to a memory."""

from __future__ import annotations

import gc
import json
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from lift.cli import progress
from lift.cli.options import (
    CONTEXT_NAMES,
    BaseGgufOption,
    ContextOption,
    EngineAdaptersOption,
    EngineChoice,
    EngineOption,
    EngineUrlOption,
    JsonOption,
    LibraryOption,
    LlamaServerOption,
    MemoryModelOption,
)
from lift.cli.output import answer_record, print_document, print_support, remark, say, write_json
from lift.errors import UsageError

if TYPE_CHECKING:
    from lift.answering.answer import Answer
    from lift.answering.answerer import Answerer
    from lift.engines.engine_settings import EngineSettings
    from lift.engines.served_answerer import ServedAnswerer
    from lift.remote.remote_answering import RemoteAnswerer

    AnyAnswerer = Answerer | ServedAnswerer | RemoteAnswerer

_BATCH_SIZE = 16
NO_ANSWER = "(no answer)"
_NameArgument = Annotated[str, typer.Argument(metavar="NAME", help="A memory's name, as lift list shows it.")]
_ASK_EPILOG = """\b
Examples:
  lift ask minutes "Who chaired the meeting?"
  lift ask minutes "Who chaired the meeting?" --context none     closed book
  lift ask --all "Who chaired the meeting?"                      of whichever document tells it
  lift ask minutes --questions questions.jsonl --json > answers.jsonl
  echo '{"id": 1, "question": "Who spoke first?"}' | lift ask minutes --questions - --json"""
_CHAT_EPILOG = """\b
Example:
  lift chat minutes

A question may lean on the ones before it ("And when?"): it is then asked in full, and how is shown."""
_CHAT_HELP = f"""/context C   answer with none, truncated, full, evidence or auto ({CONTEXT_NAMES[0]} at first)
/help        show this
/quit        leave (so do quit, exit and Ctrl-D)"""
_LEAVING = ("/quit", "/exit", "quit", "exit")


@dataclass(frozen=True)
class QuestionLine:
    """One line of a question file."""

    id: Any
    text: str


def add_commands(app: typer.Typer) -> None:
    """Put the commands of this module into `app`."""
    app.command("ask", epilog=_ASK_EPILOG)(ask)
    app.command("chat", epilog=_CHAT_EPILOG)(chat)


def ask(
    name: Annotated[
        str, typer.Argument(metavar="NAME", help="A memory's name, as lift list shows it; with --all there is none.")
    ],
    question: Annotated[
        list[str] | None, typer.Argument(metavar="QUESTION", help="The question; quotes may be left out.")
    ] = None,
    ask_all: Annotated[
        bool,
        typer.Option(
            "--all", help="Find the document that the question is about among all of the library, and ask it."
        ),
    ] = False,
    questions: Annotated[
        str | None,
        typer.Option(
            "--questions", metavar="FILE", help='A file with {"id", "question"} a line; - reads standard input.'
        ),
    ] = None,
    context: ContextOption = "auto",
    model: MemoryModelOption = None,
    library: LibraryOption = None,
    engine: EngineOption = "own",
    engine_url: EngineUrlOption = None,
    engine_adapters: EngineAdaptersOption = None,
    llama_server: LlamaServerOption = None,
    base_gguf: BaseGgufOption = None,
    as_json: JsonOption = False,
) -> None:
    """Ask a memory one question, or a file of them.

    The sentence of the text that supports the answer is shown below it; where none does, that is said.
    """
    if ask_all:
        if questions is not None or engine != "own" or engine_url is not None:
            raise UsageError("expected --all with one QUESTION and no --engine, got more; leave the others out")
        _ask_library(" ".join([name, *(question or ())]).strip(), library, model, context, as_json)
        return
    single = " ".join(question or ()).strip()
    if bool(single) == (questions is not None):
        raise UsageError(f"expected either a QUESTION or --questions FILE, got {'both' if single else 'neither'}")
    batch = read_questions(questions) if questions is not None else None
    computed_by = engine_settings(model, engine, engine_url, engine_adapters, llama_server, base_gguf)
    answerer = _open_answerer(name, library, model, computed_by)
    if batch is not None:
        with progress.opened_display(as_json) as display:
            for each, answer in _answers(answerer, batch, context, display):
                if as_json:
                    write_json(answer_record(each.text, answer, each.id))
                else:
                    say(f"{each.text}\n{answer.text or NO_ANSWER}")
                    print_support(answer)
    else:
        _ask_one(answerer, single, context, as_json)


def chat(
    name: _NameArgument,
    context: ContextOption = "auto",
    model: MemoryModelOption = None,
    library: LibraryOption = None,
    engine: EngineOption = "own",
    engine_url: EngineUrlOption = None,
    engine_adapters: EngineAdaptersOption = None,
    llama_server: LlamaServerOption = None,
    base_gguf: BaseGgufOption = None,
    as_json: JsonOption = False,
) -> None:
    """Ask a memory question after question."""
    from lift.answering.follow_up import pose_question

    computed_by = engine_settings(model, engine, engine_url, engine_adapters, llama_server, base_gguf)
    answerer = _open_answerer(name, library, model, computed_by)
    with suppress(ImportError):
        import readline  # noqa: F401  # gives input() its line editing and history
    prompt = "? " if sys.stdin.isatty() and not as_json else ""
    if prompt:
        remark(f"asking “{answerer.document.title}”; /help shows the commands, /quit leaves")
    current: str = context
    exchanges: list[tuple[str, str]] = []
    while True:
        try:
            line = input(prompt).strip()
        except (EOFError, KeyboardInterrupt):
            if prompt:
                say()
            return
        if line.lower() in _LEAVING:
            return
        if line.startswith("/"):
            current = _obey(line, current)
        elif line:
            try:
                posed = pose_question(exchanges, line)
                if prompt and posed.question != line:
                    remark(f"asked as: {posed.question}")
                exchanges.append((line, _ask_one(answerer, posed.alone, current, as_json, line).text))
            except KeyboardInterrupt:
                say()
            except UsageError as error:
                remark(f"lift: {error}")


def read_questions(source: str) -> list[QuestionLine]:
    """The questions of a JSON-lines file, or of standard input for "-"; a line without an id is given its number.

    Raises UsageError for a file that cannot be read, and for the first line that is not a question.
    """
    try:
        raw = sys.stdin.buffer.read() if source == "-" else Path(source).read_bytes()
        lines = raw.decode("utf-8-sig").splitlines()
    except OSError as error:
        raise UsageError(
            f"expected a readable file of questions, got {source!r}: {(error.strerror or str(error)).lower()}"
        ) from None
    except UnicodeDecodeError:
        raise UsageError(f"expected UTF-8 text in {source!r}, got other bytes; save it as UTF-8") from None
    found = [_parse_question(line, source, number) for number, line in enumerate(lines, 1) if line.strip()]
    if not found:
        raise UsageError(f'expected {{"id", "question"}} a line in {source!r}, got no line')
    return found


def _parse_question(line: str, source: str, number: int) -> QuestionLine:
    try:
        record = json.loads(line)
    except (json.JSONDecodeError, RecursionError):
        record = None
    text = record.get("question") if isinstance(record, dict) else None
    if not isinstance(text, str) or not text.strip():
        raise UsageError(
            f'expected {{"id", "question"}} in line {number} of {source!r}, got {line.strip()[:60]!r}; mend that line'
        )
    return QuestionLine(record.get("id", number), text)


def engine_settings(
    model: str | None,
    engine: EngineChoice,
    url: str | None,
    adapters: Path | None,
    program: Path | None,
    gguf: Path | None,
) -> EngineSettings:
    """The engine that the options name, or that --model vllm:URL names; raises UsageError."""
    from lift.engines.engine_settings import VLLM_PREFIX, EngineSettings

    if model is not None and model.startswith(VLLM_PREFIX):
        if engine != "own" or url is not None:
            raise UsageError(f"expected either --model {VLLM_PREFIX}URL or --engine, got both; leave one out")
        engine, url = "vllm", model.removeprefix(VLLM_PREFIX)
    settings = EngineSettings(engine, url, adapters, program, gguf)
    settings.check()
    return settings


def _ask_library(question: str, library: Path | None, model: str | None, context: str, as_json: bool) -> None:
    with _without_collection():
        from lift.api import Library

        base = progress.load_shown_model(model, as_json=False) if model is not None else None
        memories = Library(library, base)
    found = memories.ask(question, context)
    if as_json:
        documents = [{"memory": each.name, "title": each.title, "score": round(each.score, 3)} for each in found.found]
        write_json(
            {
                "memory": found.memory,
                "title": found.title,
                **answer_record(question, found.answer),
                "documents": documents,
                "left_out": dict(found.left_out),
            }
        )
        return
    for name, why in found.left_out.items():
        remark(f"lift: {name!r} was not searched: {why}")
    say(found.answer.text or NO_ANSWER)
    print_support(found.answer)
    print_document(found.memory, found.title)


def _open_answerer(name: str, library: Path | None, model: str | None, computed_by: EngineSettings) -> AnyAnswerer:
    with _without_collection():
        return _opened(name, library, model, computed_by)


@contextmanager
def _without_collection() -> Iterator[None]:
    """Without the garbage collector while modules and weights are loaded, which all stay: a sixth of a start's time."""
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()


def _opened(name: str, library: Path | None, model: str | None, computed_by: EngineSettings) -> AnyAnswerer:
    from lift.memories.library import MemoryLibrary

    memories = MemoryLibrary(library)
    memory = memories[name]
    from lift.remote.remote_model import is_remote

    if is_remote(memory):
        if computed_by.engine != "own":
            raise UsageError(
                f"expected no --engine for {name!r}, which is a model at an endpoint and answers there, got "
                f"{computed_by.engine}; leave it out"
            )
        from lift.remote.remote_answering import open_remote_memory

        return open_remote_memory(memory)
    if computed_by.engine != "own":
        from lift.engines.served_answerer import open_served_memory
        from lift.engines.served_model import load_named_outline, serve_model

        outline = load_named_outline(memory, model)
        return open_served_memory(memory, serve_model(outline, computed_by, memories.root))
    base = progress.load_shown_model(model or memory.manifest.base.id, as_json=False, fetch=model is not None)
    from lift.answering.answerer import open_memory

    return open_memory(memory, base)


def _answers(
    answerer: AnyAnswerer, questions: list[QuestionLine], context: str, display: progress.Display
) -> Iterator[tuple[QuestionLine, Answer]]:
    """Batch by batch, so that a long file shows its first answers early, and how far it is."""
    begun = time.monotonic()
    for first in range(0, len(questions), _BATCH_SIZE):
        batch = questions[first : first + _BATCH_SIZE]
        eta_s = (time.monotonic() - begun) / first * (len(questions) - first) if first else None
        display.count("asking question", first, len(questions), eta_s)
        yield from zip(batch, answerer.ask_many([each.text for each in batch], context), strict=True)


def _ask_one(answerer: AnyAnswerer, question: str, context: str, as_json: bool, asked: str | None = None) -> Answer:
    """Ask and print; `asked` is what the user wrote where that is not the question."""
    if as_json:
        answer = answerer.ask(question, context)
        write_json(answer_record(asked or question, answer))
        return answer
    if sys.stdout.isatty():
        answer = answerer.ask(question, context, on_text=_print_piece)
        say("" if answer.text else NO_ANSWER)
    else:
        answer = answerer.ask(question, context)
        say(answer.text or NO_ANSWER)
    print_support(answer)
    return answer


def _print_piece(text: str) -> None:
    say(text, end="")


def _obey(line: str, context: str) -> str:
    """Carry out a /command of the chat; returns the context to go on with."""
    command, _, value = line.partition(" ")
    if command == "/help":
        remark(_CHAT_HELP)
    elif command != "/context":
        remark(f"lift: expected /context, /help or /quit, got {command!r}")
    elif value.strip() in CONTEXT_NAMES:
        return value.strip()
    else:
        remark(f"lift: expected a context of {', '.join(CONTEXT_NAMES)}, got {value.strip()!r}")
    return context
