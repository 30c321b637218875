"""Results of the benchmarks as tables for a person."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lift.cli.output import build_table, format_bytes, format_seconds, print_facts, stdout


def show_absorb(result: Mapping[str, Any]) -> None:
    """Print what bench_absorb found."""
    _show_machine(result)
    for text in result["texts"]:
        _show_text(text, f"{result['recall']:.0%}")
    if len(result["texts"]) > 1:
        print_facts((f"Lift beside {side}", _over_texts(ratio)) for side, ratio in result["speedup"].items())
    for note in result["notes"]:
        stdout().print(f"- {note}", markup=False)


def _show_text(text: Mapping[str, Any], recall: str) -> None:
    about = text["facts"]
    lines, facts = [], []
    for row in text["rows"]:
        compared = text["speedup"].get(row["side"])
        lines.append(
            (
                row["side"],
                *_reached(row),
                f"{row['real_tokens_per_s']:.0f}",
                f"{row['needed_share']:.0%}",
                format_bytes(row["peak_bytes"]),
                _times(compared["seconds"]) if compared else "",
            )
        )
        facts.append((row["side"], _details(row, about["recipe"])))
    columns = ["side", "seconds", "spread", "tokens/s", "of bound", "memory", "Lift quicker"]
    title = (
        f"{about['title']} ({about['text_tokens']:,} tokens, {about['examples']:,} examples an epoch): seconds of "
        f"training until {recall} of {about['probes']} held-out questions are answered closed book"
    )
    stdout().print(build_table(columns, lines, title=title))
    print_facts(facts)


def _over_texts(ratio: Mapping[str, Any]) -> str:
    seconds = ratio["seconds"]
    if seconds is None:
        return "not known: the recall was not reached on every text"
    return f"{_times(seconds)} quicker, {seconds['least']:.1f}-{seconds['most']:.1f}x over the texts"


def _reached(row: Mapping[str, Any]) -> tuple[str, str]:
    if row["reached"] < row["seeds"]:
        return f"not in {row['trained_s']['most']:.0f}", f"{row['reached']} of {row['seeds']}"
    seconds = row["reached_s"]
    return f"{seconds['median']:.1f}", f"{seconds['least']:.1f}-{seconds['most']:.1f}"


def _details(row: Mapping[str, Any], recipe: str) -> str:
    options = row["options"]
    how = f"{options['layout']}, batch {options['batch']}, rate {options['rate']:g}" if options else f"recipe {recipe}"
    return (
        f"{how}; {row['labelled_tokens_per_s']:.0f} tokens with loss a second, {row['computed_tokens_per_s']:.0f} "
        f"positions computed a second at {row['done_share']:.0%} of the bound"
    )


def _times(ratio: Mapping[str, Any] | None) -> str:
    if ratio is None:
        return "not known"
    return f"{'at least ' if ratio['at_least'] else ''}{ratio['times']:.1f}x"


def show_ask(result: Mapping[str, Any]) -> None:
    """Print what bench_ask found."""
    _show_machine(result)
    lines = []
    for row in result["rows"]:
        way = {"none": "closed book", "full": "full text", "kept": "kept text"}.get(row["context"], row["context"])
        if not row["fits"]:
            lines.append((f"{row['length']:,}", way, "too long", "", "", ""))
            continue
        ratio = result["speedup"]["first_token"].get(row["context"], {}).get(str(row["length"]))
        lines.append(
            (
                f"{row['length']:,}",
                way,
                f"{row['prompt_tokens']:,}",
                format_seconds(row["first_token_s"]),
                f"{row['tokens_per_s']:.1f}",
                f"{ratio:.1f}x" if ratio else "",
            )
        )
    columns = ["text", "asked", "prompt", "first token", "then tokens/s", "memory is sooner"]
    title = (
        f"One question at a time, closed book to a memory ({result['memory']}) or reading; text and prompt in tokens"
    )
    stdout().print(build_table(columns, lines, title=title))
    facts = [(f"{each['questions']} at once", _in_flight(each)) for each in result["in_flight"]]
    for row in result["rows"]:
        if row["context"] == "full":
            facts.append(
                (
                    f"{row['length']:,} tokens",
                    f"{format_bytes(row['bytes'])} of keys and values, or a memory of "
                    f"{format_bytes(result['adapter_bytes'])}",
                )
            )
        elif row["context"] == "kept" and row["fits"]:
            facts.append(("", f"{format_bytes(row['bytes'])} held while the text is kept"))
    switch = result["switch"]
    facts.append(("another memory", f"{format_seconds(switch['from_file_s'])} from its file"))
    facts.append(("", f"{1000 * switch['attached_s']:.1f} ms where it is attached already"))
    facts += _llama_facts(result["llama_cpp"]) if result["llama_cpp"] else []
    print_facts(facts)


def _in_flight(row: Mapping[str, Any]) -> str:
    return (
        f"{row['questions_per_s']:.2f} questions/s closed book, {row['one_tokens_per_s']:.1f} tokens/s; to as many "
        f"memories {row['many_tokens_per_s']:.1f} tokens/s, {row['ratio']:.2f} times that ({row['ratio_least']:.2f} to "
        f"{row['ratio_most']:.2f}), attached in {format_seconds(row['attach_s'])}"
    )


def _llama_facts(beside: Mapping[str, Any]) -> list[tuple[str, str]]:
    lift, llama = beside["lift"], beside["llama_cpp"]
    speeds = [side["tokens_per_s"] for side in (lift, llama)]
    ours, theirs = (f"{each['median']:.1f} ({each['least']:.1f}-{each['most']:.1f})" for each in speeds)
    firsts = [format_seconds(side["first_token_s"]["median"]) for side in (lift, llama)]
    return [
        ("llama.cpp", f"{ours} tokens/s without a memory, llama.cpp {theirs}: {beside['speed']:.2f} of its speed"),
        ("", f"first token after {firsts[0]}, llama.cpp {firsts[1]}; {beside['threads']} threads, {beside['gguf']}"),
    ]


def show_budgets(result: Mapping[str, Any]) -> None:
    """Print what bench_budgets found."""
    lines = [
        (
            str(row["run"] + 1),
            row["file"].rpartition("/")[2],
            format_seconds(row["budget_s"]),
            format_seconds(row["seconds"]),
            f"{100 * row['late_share']:+.1f} %",
            f"{row.get('tokens', 0):,}",
            f"{row.get('probed', 0)}",
            f"{row['load']:.1f}",
            "made" if row["memory"] else (row["error"] or "none"),
        )
        for row in result["rows"]
    ]
    columns = ["run", "text", "budget", "took", "late", "tokens", "asked", "busy", "memory"]
    stdout().print(build_table(columns, lines, title="Budgets under a load that changes at random"))
    told = ", ".join(
        f"{100 * error:.0f} % wrong at {100 * float(share):.0f} %"
        for share, error in result["eta_errors"].items()
        if error is not None
    )
    print_facts(
        [
            ("memories", f"{result['memories']} of {result['runs']}"),
            ("latest", f"{100 * result['latest_share']:+.1f} % of its budget"),
            ("late by more than 5 %", str(result["late"])),
            ("used", f"{100 * result['used_share']:.0f} % of the budget (median)"),
            ("told time left", told or "none was told"),
        ]
    )


def show_growth(result: Mapping[str, Any]) -> None:
    """Print what bench_growth found."""
    _show_machine(result)
    lines = [
        (
            f"{row['tokens']:,}",
            f"{row['sentences']:,}",
            f"{row['tasks']:,}",
            format_seconds(row["prepare_s"]),
            format_seconds(row["train_s"]),
            format_seconds(row["seconds"]),
            format_bytes(row["held_bytes"]),
        )
        for row in result["rows"]
    ]
    columns = ["tokens", "sentences", "questions", "preparing", "training", "together", "memory"]
    title = f"{result['settings']['tokens_per_sentence']} tokens trained for each sentence"
    stdout().print(build_table(columns, lines, title=title))
    facts = [("memory", f"{result['peak_growth']:.2f} times as much for the longest text as for the shortest")]
    for row in result["rows"]:
        if row["timed_epochs"] is not None:
            facts.append(
                (
                    f"{row['tokens']:,} tokens",
                    f"{row['timed_epochs']:.2f} epochs in {format_seconds(result['settings']['train_s'])} of training, "
                    f"{format_bytes(row['timed_peak_bytes'])}",
                )
            )
    for row in result["library"]:
        facts.append(
            (
                f"{row['memories']:,} memories",
                f"{1000 * row['list_s']:.1f} ms to list, {1000 * row['open_s']:.2f} ms to open one, "
                f"{1000 * row['ask_s']:.1f} ms until it can be asked, {1000 * row['search_s']:.1f} ms to find the "
                f"documents of a question ({row['index_s']:.1f} s to index all), "
                f"{1000 * row['put_s']:.0f} ms to put another and "
                f"remove it, {format_bytes(row['directory_bytes'])}",
            )
        )
    named = {"prepare_s": "preparing", "train_s": "training", "seconds": "together", "held_bytes": "memory"}
    print_facts(
        [
            *(
                (named[key], "one length only" if slope is None else f"grows as tokens to the power of {slope:.2f}")
                for key, slope in result["slope"].items()
            ),
            *facts,
        ]
    )


def show_serve(result: Mapping[str, Any]) -> None:
    """Print what bench_serve found."""
    _show_machine(result)
    settings = result["settings"]
    lines = [
        (
            row["side"],
            str(row["clients"]),
            f"{row['requests_per_s']:.2f}",
            f"{row['tokens_per_s']:.1f}",
            _halfway(row["first_token_s"]),
            _halfway(row["answer_s"]),
        )
        for row in result["rows"]
    ]
    columns = ["side", "clients", "answers/s", "tokens/s", "first text", "whole"]
    title = f"{settings['memories']} memories, context {settings['context']}; p50 / p95 in seconds"
    stdout().print(build_table(columns, lines, title=title))
    print_facts(
        [
            *((row["side"], _checked(row)) for row in result["rows"]),
            *((f"lift beside {side}", _more(ratio)) for side, ratio in result["speedup"].items()),
        ]
    )
    for row in result["rows"]:
        for fault, count in row["faults"].items():
            stdout().print(f"- {row['side']}: {count} times {fault}", markup=False)
    for note in result["notes"]:
        stdout().print(f"- {note}", markup=False)


def show_engine_faults(result: Mapping[str, Any]) -> None:
    """Print what bench_engine_faults found."""
    _show_machine(result)
    columns = ["round", "answers", "lost", "mixed", "stale", "kills", "replaced", "adapters loaded", "first text"]
    lines = [
        (
            str(number),
            *(str(row[key]) for key in ("answers", "lost", "mixed", "stale", "kills", "replaced", "loads")),
            _halfway(row["first_token_s"]),
        )
        for number, row in enumerate(result["rounds"], 1)
    ]
    stdout().print(build_table(columns, lines, title="lift serve --engine vllm; p50 / p95 in seconds"))
    for row in result["rounds"]:
        for fault, count in row["faults"].items():
            stdout().print(f"- {count} times {fault}", markup=False)


def _halfway(times: Mapping[str, float] | None) -> str:
    return f"{times['p50']:.2f} / {times['p95']:.2f}" if times else ""


def _checked(row: Mapping[str, Any]) -> str:
    held = f", {format_bytes(row['peak_bytes'])} held" if row["peak_bytes"] else ""
    return (
        f"{row['answers']} answers, {row['own']} with their own secret, {row['mixed']} with another's; "
        f"{row['lost']} lost{held}"
    )


def _more(ratio: Mapping[str, Any]) -> str:
    if ratio["requests_per_s"] is None:
        return "not known: the other gave no answer in time"
    return f"{ratio['requests_per_s']:.1f}x the answers, {ratio['tokens_per_s'] or 0:.1f}x the tokens a second"


def _show_machine(result: Mapping[str, Any]) -> None:
    machine = result["machine"]
    stdout().print(
        f"{machine['processor']}, {machine['cores']} cores, {machine['threads']} threads, {machine['device']}",
        markup=False,
    )


def show_threads(result: Mapping[str, Any]) -> None:
    """Print what bench_threads found."""
    _show_machine(result)
    lines = [
        (
            str(row["busy_processes"]),
            row["setting"],
            f"{row['training_tokens_per_s']:.0f}",
            f"{row['prefill_tokens_per_s']:.0f}",
            f"{row['decode_tokens_per_s']:.1f}",
            str(row["threads_at_end"]),
        )
        for row in result["rows"]
    ]
    columns = ["busy", "threads", "training", "prefill", "decode", "at the end"]
    stdout().print(build_table(columns, lines, title="Tokens a second, by the number of busy processes beside it"))
    for note in result["notes"]:
        stdout().print(f"- {note}", markup=False)


def show_parity(result: Mapping[str, Any]) -> None:
    """Print what share of the answers each program gave as Lift did."""
    columns = ["memory", "program", "adapter", "same", "judged within", "logits within"]
    rows = [row for row in result["rows"] if "error" not in row]
    table = [[row["memory"], f"{row['peer']} {row['version']}", *_parity_cells(row)] for row in rows]
    table += [["all", row["peer"], *_parity_cells(row)] for row in result["sums"] if row["questions"]]
    stdout().print(build_table(columns, table, f"Beside Lift in {result['dtype']}"))
    for row in result["rows"]:
        if "error" in row:
            stdout().print(f"{row['memory']}, {row['peer']}: {row['error']}", markup=False)
    _show_machine(result)


def _parity_cells(row: Mapping[str, Any]) -> list[str]:
    logits = row["largest_logit_difference"]
    return [
        row["adapter"],
        f"{row['same']} of {row['questions']}",
        f"{row['largest_judged_difference']:.2g} nats",
        "" if logits is None else f"{logits:.2g}",
    ]
