"""Read damaged documents, as strangers send them, and count how reading ends.

    python scripts/fuzz_documents.py --data tests/data/formats --format docx --count 300 --seed 1

Each file is a whole one of `--data` with seeded damage: flipped bits, lost ends, doubled and nested parts, numbers and
names that no program writes. It is read as any file is, in the process of limited means (lift.documents.sandbox). What
must not be: a reader that fails on what it does not expect, one that breaks down, or one that hangs. Exits with 1 where
one did, and keeps those files in `--keep`.
"""

from __future__ import annotations

import argparse
import io
import random
import resource
import sys
import tempfile
import time
import zipfile
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from lift.documents.read import read_document
from lift.errors import DocumentError

HANG_S = 60.0
ZIP_MARK = b"PK\x03\x04"
NUMBERS = [
    b"0",
    b"-1",
    b"1",
    b"9",
    b"65535",
    b"4294967296",
    b"99999999999999999999",
    b"1e400",
    b"NaN",
    b"",
    b"\xd9\xa3",
]
GRAFTS = [
    b"<", b">", b"&", b'"', b"\0", b"\xff\xfe", b"]]>", b"<!--", b"<![CDATA[", b"&#0;", b"&#x110000;", b"&nbsp;",
    b"\n\n", b"</p>", b"</table>", b"<table><tr><td rowspan='65534' colspan='1000'>x", b"<div>" * 300, b"{" * 300,
    b"}" * 9, b"\\bin999 ", b"\\u-10179?", b"--outer\n", b"--inner--\n",
    b"Content-Type: multipart/mixed; boundary=outer\n\n", b"=?utf-8?B?AAAA?=", b"<sup>" * 50, b"<math><mfrac>",
    b"1 --> 2", b"00:00:01,000 --> 00:00:00,000\n", b"[[" * 50, b"|" * 200, b"'" * 99, "\u0301".encode() * 200,
    b"<!DOCTYPE x [<!ENTITY a 'aaaaaaaaaa'><!ENTITY b '&a;&a;&a;&a;&a;'>]>", b"&b;",
    b"1 0 R", b"<< /Kids [2 0 R] >>", b"/Count 99999999", b"BT /F1 1e9 Tf (x) Tj ET", b"/Length -1", b"[" * 5000,
    b"/MediaBox [0 0 1e30 1e30]",
]  # fmt: skip


def mutate(data: bytes, generator: random.Random) -> bytes:
    """The bytes with one to five kinds of damage; of an archive mostly to its members, so that it still opens."""
    if data.startswith(ZIP_MARK) and generator.random() < 0.85:
        return _mutate_archive(data, generator)
    return _mutate_bytes(data, generator, generator.randint(1, 5))


def _mutate_archive(data: bytes, generator: random.Random) -> bytes:
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        members = {info.filename: archive.read(info) for info in archive.infolist()}
    names = [name for name in members if name.endswith((".xml", ".rels", ".xhtml", ".opf", ".ncx"))] or list(members)
    for _ in range(generator.randint(1, 4)):
        name = generator.choice(names)
        kind = generator.random()
        if kind < 0.06:
            members.pop(name, None)
        elif kind < 0.12:
            members[name] = members.get(generator.choice(names), b"")
        elif name in members:
            members[name] = _mutate_markup(members[name], generator)
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    whole = made.getvalue()
    return whole if generator.random() < 0.9 else _mutate_bytes(whole, generator, 1)


def _mutate_markup(data: bytes, generator: random.Random) -> bytes:
    """Damage that leaves markup mostly well-formed: other numbers, doubled, dropped and nested elements."""
    for _ in range(generator.randint(1, 6)):
        opened = [place for place in range(len(data)) if data[place : place + 1] == b"<"][:20_000]
        if not opened:
            return _mutate_bytes(data, generator, 1)
        kind = generator.random()
        if kind < 0.4:
            data = _other_value(data, generator)
        elif kind < 0.9:
            begin = generator.choice(opened)
            name = data[begin + 1 : begin + 40].split(b">")[0].split(b" ")[0].strip(b"/")
            end = data.find(b"</" + name + b">", begin)
            if end == -1:
                continue
            end += len(name) + 3
            piece = data[begin:end]
            if kind < 0.55:
                data = data[:begin] + data[end:]
            elif kind < 0.7:
                data = data[:begin] + piece * generator.choice([2, 3, 50]) + data[end:]
            elif kind < 0.8:
                depth = generator.choice([2, 20, 300])
                data = (
                    data[:begin]
                    + b"<"
                    + name
                    + b">" * 1
                    + (b"<" + name + b">") * (depth - 1)
                    + piece
                    + (b"</" + name + b">") * depth
                    + data[end:]
                )
            else:
                target = generator.choice(opened)
                data = data[:target] + piece + data[target:]
        else:
            data = _mutate_bytes(data, generator, 1)
    return data


def _other_value(data: bytes, generator: random.Random) -> bytes:
    quotes = [place for place in range(len(data)) if data[place : place + 1] == b'"'][:20_000]
    if len(quotes) < 2:
        return data
    begin = generator.choice(quotes[:-1]) + 1
    end = data.find(b'"', begin)
    return data[:begin] + generator.choice(NUMBERS) + data[end:]


def _mutate_bytes(data: bytes, generator: random.Random, times: int) -> bytes:
    for _ in range(times):
        if not data:
            return data
        place, kind = generator.randrange(len(data)), generator.random()
        if kind < 0.3:
            data = data[:place] + bytes([data[place] ^ 1 << generator.randrange(8)]) + data[place + 1 :]
        elif kind < 0.4:
            data = data[:place]
        elif kind < 0.6:
            end = min(len(data), place + generator.randint(1, 400))
            data = data[:place] + data[place:end] * generator.choice([0, 2, 30]) + data[end:]
        elif kind < 0.9:
            data = data[:place] + generator.choice(GRAFTS) * generator.choice([1, 1, 1, 40]) + data[place:]
        else:
            data = data[:place] + generator.choice(NUMBERS) + data[place + generator.randint(0, 4) :]
    return data


def outcome(path: Path) -> tuple[str, float, str]:
    """How reading a file ended, after how many seconds, and the sentence of a refusal."""
    begun = time.monotonic()
    sentence = ""
    try:
        document = read_document(path)
        kind = "read" if not document.omissions else "read, with omissions"
    except DocumentError as error:
        sentence = str(error)
        is_failure = "reader failed" in sentence or "broke down" in sentence
        kind = "failure" if is_failure else "over the limits" if "takes more" in sentence else "refused"
    seconds = time.monotonic() - begun
    return ("hang" if seconds > HANG_S else kind), seconds, sentence


def main() -> int:
    """Fuzz the files of one format; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder of whole files")
    parser.add_argument("--format", required=True, help="suffix of the files to damage, such as docx")
    parser.add_argument("--count", type=int, default=300)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--keep", type=Path, help="folder for the files that made a reader fail or hang")
    options = parser.parse_args()
    seeds = sorted(options.data.rglob(f"*.{options.format}"))
    if not seeds:
        print(f"{options.data}: expected a file that ends in .{options.format}, got none", file=sys.stderr)
        return 2
    counts, slowest, bad = Counter[str](), 0.0, list[str]()
    with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(2) as pool:

        def one(number: int) -> tuple[int, bytes, tuple[str, float, str]]:
            generator = random.Random(f"{options.seed}/{options.format}/{number}")
            data = mutate(generator.choice(seeds).read_bytes(), generator)
            path = Path(folder) / f"{number}.{options.format}"
            path.write_bytes(data)
            found = outcome(path)
            path.unlink()
            return number, data, found

        for number, data, (kind, seconds, sentence) in pool.map(one, range(options.count)):
            counts[kind] += 1
            slowest = max(slowest, seconds)
            if kind in {"failure", "hang"}:
                bad.append(f"{number}: {kind}, {seconds:.1f} s: {sentence}")
                if options.keep:
                    options.keep.mkdir(parents=True, exist_ok=True)
                    (options.keep / f"{options.seed}-{number}.{options.format}").write_bytes(data)
    most_mib = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024
    shown = ", ".join(f"{count} {kind}" for kind, count in counts.most_common())
    print(f"{options.format}: {options.count} files: {shown}; slowest {slowest:.1f} s, most memory {most_mib:.0f} MiB")
    print("\n".join(bad[:20]))
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
