"""`lift serve`: the library over HTTP, with a page; and the keys to it."""

from __future__ import annotations

import importlib.util
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from lift.cli.options import (
    BaseGgufOption,
    EngineAdaptersOption,
    EngineOption,
    EngineUrlOption,
    JsonOption,
    LibraryOption,
    LlamaServerOption,
    ModelOption,
)
from lift.cli.output import remark, say, write_json
from lift.errors import UsageError

_NEEDED = ("fastapi", "uvicorn", "multipart", "prometheus_client")
_EPILOG = """\b
Examples:
  lift serve                                         then open http://127.0.0.1:8000
  lift serve --new-key anna --scopes read,ask --api-key-file keys.jsonl
  lift serve --host 0.0.0.0 --api-key-file keys.jsonl
  lift serve --engine vllm --engine-url http://127.0.0.1:8001
  curl localhost:8000/v1/chat/completions -H 'Content-Type: application/json' \\
    -d '{"model": "minutes", "messages": [{"role": "user", "content": "Who chaired the meeting?"}]}'"""


def add_commands(app: typer.Typer) -> None:
    """Put the command of this module into `app`."""
    app.command("serve", epilog=_EPILOG)(serve)


def serve(
    host: Annotated[
        str, typer.Option("--host", metavar="ADDRESS", help="Where to listen; anything but this machine needs keys.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option("--port", min=0, max=65535, metavar="N", help="0 takes a free one.")] = 8000,
    key_file: Annotated[
        Path | None,
        typer.Option("--api-key-file", metavar="FILE", help="Hashes of the keys that may ask, one JSON line a key."),
    ] = None,
    library: LibraryOption = None,
    model: ModelOption = "smollm2",
    rows: Annotated[
        int, typer.Option("--rows", min=2, metavar="N", help="Answers in the making at once; auto takes two.")
    ] = 32,
    waiting: Annotated[
        int, typer.Option("--waiting", min=1, metavar="N", help="Questions that may wait before others are refused.")
    ] = 256,
    resident: Annotated[
        int, typer.Option("--resident", min=1, metavar="N", help="Memories that are kept loaded, the last used ones.")
    ] = 32,
    max_upload_bytes: Annotated[
        int, typer.Option("--max-upload-bytes", min=1, metavar="N", help="The largest document that is taken.")
    ] = 50_000_000,
    max_stored_bytes: Annotated[
        int, typer.Option("--max-stored-bytes", min=1, metavar="N", help="What all kept uploads may have together.")
    ] = 10_000_000_000,
    requests_per_minute: Annotated[
        int, typer.Option("--requests-per-minute", min=1, metavar="N", help="What a key may ask by default.")
    ] = 600,
    concurrent: Annotated[
        int, typer.Option("--concurrent", min=1, metavar="N", help="Requests of a key at once, by default.")
    ] = 64,
    answer_s: Annotated[
        float, typer.Option("--answer-s", min=1, metavar="S", help="The time limit of an answer, waiting included.")
    ] = 300.0,
    shutdown_s: Annotated[
        float, typer.Option("--shutdown-s", min=1, metavar="S", help="What running answers may take at the end.")
    ] = 20.0,
    connections: Annotated[
        int, typer.Option("--connections", min=16, metavar="N", help="Connections that may be open at once.")
    ] = 1000,
    allowed_host: Annotated[
        list[str] | None,
        typer.Option("--allowed-host", metavar="NAME", help="Another name the server goes by, as behind a proxy."),
    ] = None,
    cors_origin: Annotated[
        list[str] | None,
        typer.Option("--cors-origin", metavar="URL", help="A web page elsewhere that may ask from a browser."),
    ] = None,
    new_key: Annotated[
        str | None, typer.Option("--new-key", metavar="NAME", help="Add a key to --api-key-file, print it, and end.")
    ] = None,
    scopes: Annotated[
        str, typer.Option("--scopes", metavar="S,S", help="What the new key may do: read, ask, absorb, admin.")
    ] = "read,ask",
    engine: EngineOption = "own",
    engine_url: EngineUrlOption = None,
    engine_adapters: EngineAdaptersOption = None,
    llama_server: LlamaServerOption = None,
    base_gguf: BaseGgufOption = None,
    as_json: JsonOption = False,
) -> None:
    """Serve the library: OpenAI's API for every chat program, Lift's own, and a page for the browser.

    Listens on this machine alone unless told otherwise. Logs go to standard error as JSON lines, without texts.
    """
    if new_key is not None:
        _make_key(new_key, scopes, key_file, as_json)
        return
    missing = [package for package in _NEEDED if importlib.util.find_spec(package) is None]
    if missing:
        raise UsageError(
            f"lift serve needs {missing[0]}, which is not installed; install it with: pip install 'lift-memory[serve]'"
        )
    from lift.server.settings import ServerSettings

    settings = ServerSettings(
        model=model,
        host=host,
        port=port,
        key_file=key_file,
        allowed_hosts=tuple(allowed_host or ()),
        cors_origins=tuple(cors_origin or ()),
        max_upload_bytes=max_upload_bytes,
        max_stored_bytes=max_stored_bytes,
        requests_per_minute=requests_per_minute,
        concurrent=concurrent,
        answer_s=answer_s,
        shutdown_s=shutdown_s,
        connections=connections,
    )
    settings.check()
    # what can be wrong with the command is said before torch and the model are loaded, which takes long
    from lift.server.listening import open_socket, url_of

    if key_file is not None:
        from lift.server.keys import KeyFile

        KeyFile(key_file)
    from lift.engines.engine_settings import EngineSettings

    computed_by = EngineSettings(engine, engine_url, engine_adapters, llama_server, base_gguf, rows)
    computed_by.check()
    with open_socket(settings) as listener:
        from lift.jobs.store import JOBS_DIRECTORY, JobStore
        from lift.memories.library import MemoryLibrary

        memories = MemoryLibrary(library)
        store = JobStore(memories.root / JOBS_DIRECTORY)
        from lift.engines.served_model import ServedModel, opened_base
        from lift.jobs.supervisor import Supervisor
        from lift.server.app import create_app
        from lift.server.bounded_connections import allow_open_files
        from lift.server.logs import log_to_stderr
        from lift.server.server_process import run_server
        from lift.serving.engine import Engine

        with opened_base(model, computed_by, memories.root, on_progress=None if as_json else remark) as base:
            backend = base.backend(rows) if isinstance(base, ServedModel) else None
            lift_engine = Engine(base, memories, rows=rows, waiting=waiting, resident=resident, backend=backend)
            settings = replace(settings, connections=allow_open_files(connections))
            if settings.connections < connections:
                remark(f"{settings.connections} connections, since this process may open no more files")
            app = create_app(lift_engine, store, Supervisor(store, memories.root, model), memories, settings)
            log_to_stderr()
            url = url_of(listener)

            def ready() -> None:
                if as_json:
                    write_json({"url": url, "library": str(memories.root), "model": base.id, "engine": engine})
                else:
                    say(f"serving {memories.root} at {url}; Ctrl-C stops")

            run_server(app, listener, ready)


def _make_key(name: str, scopes: str, key_file: Path | None, as_json: bool) -> None:
    if key_file is None:
        raise UsageError("expected --api-key-file FILE beside --new-key, got none; name the file that holds the keys")
    from lift.server.keys import add_key

    wanted = [scope.strip() for scope in scopes.split(",") if scope.strip()]
    secret = add_key(key_file, name, wanted)
    if as_json:
        write_json({"name": name, "scopes": wanted, "key": secret})
        return
    say(secret)
    remark(f"the key of {name} ({', '.join(wanted)}); it is shown this once, {key_file} holds its hash alone")
