"""Documents in a seeded order, in groups that are held out as a whole or not at all."""

from __future__ import annotations

import hashlib
import json
import re
import sysconfig
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np

from p2fit.extras import command
from p2fit_adapters.errors import RunError

#: Name of a group and its documents.
Groups = Iterable[tuple[str, Iterable[str]]]

SMALLEST, LARGEST = 500, 1_000_000  # bytes of a file of the corpus: no stubs, no generated tables
KINDS = frozenset({".py", ".rst", ".md", ".txt"})


def groups(spec: str, seed: int) -> Groups:
    """The groups of a text: packages of ``corpus``, else single files, lines or hub documents.

    Raises:
        RunError: there is no such text, or it cannot be read.
    """
    if spec == "corpus":
        return _corpus(seed)
    if spec.startswith("hub:"):
        return _hub(spec, seed)
    return _local(Path(spec), seed)


def _shuffled(names: Iterable[str], seed: int) -> list[str]:
    ordered = sorted(names)
    return [ordered[i] for i in np.random.default_rng(seed).permutation(len(ordered))]


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise RunError(f"{path}: cannot be read as UTF-8 text: {error}") from None


def _local(path: Path, seed: int) -> Groups:
    if path.is_file():
        files = [path]
    elif path.is_dir():
        files = [p for p in path.rglob("*") if p.is_file()]
        files = [p for p in files if not any(q.startswith(".") for q in p.relative_to(path).parts)]
    else:
        raise RunError(
            f"{path}: no such file or folder; a text is one of these, corpus, or hub:NAME"
        )
    if not files:
        raise RunError(f"{path}: an empty folder")
    found: dict[str, Iterable[str]] = {}
    for file in files:
        name = str(file.relative_to(path)) if path.is_dir() else file.name
        if file.suffix == ".jsonl":
            for i, line in enumerate(_read(file).splitlines(), 1):
                found[f"{name}:{i:09}"] = [_field(file, i, line)]
        else:
            found[name] = _Lazy(file)
    return [(name, found[name]) for name in _shuffled(found, seed)]


def _field(file: Path, number: int, line: str) -> str:
    try:
        text = json.loads(line)["text"]
    except (ValueError, KeyError, TypeError):
        text = None
    if not isinstance(text, str):
        raise RunError(f'{file}:{number}: not a JSON object with a string "text"')
    return text


class _Lazy:
    """A file that is read when it is iterated over."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __iter__(self) -> Iterator[str]:
        yield _read(self.path)


def _corpus(seed: int) -> Groups:
    """The standard library, installed packages and their documentation, each file once."""
    places = {
        sysconfig.get_paths()[name] for name in ("stdlib", "platstdlib", "purelib", "platlib")
    }
    packages: dict[str, list[Path]] = {}
    for place in [*sorted(places), "/usr/share/doc"]:
        if Path(place).is_dir():
            for entry in Path(place).iterdir():
                if entry.name not in {"site-packages", "dist-packages", "__pycache__"}:
                    packages.setdefault(entry.stem.partition("-")[0].lower(), []).append(entry)
    seen: set[bytes] = set()
    for name in _shuffled(packages, seed):
        documents = _files(packages[name], seen)
        yield name, documents


def _files(entries: Iterable[Path], seen: set[bytes]) -> Iterator[str]:
    for entry in sorted(entries):
        for path in sorted(entry.rglob("*")) if entry.is_dir() else [entry]:
            if path.suffix not in KINDS or not path.is_file() or path.is_symlink():
                continue
            if not SMALLEST <= path.stat().st_size <= LARGEST:
                continue
            data = path.read_bytes()
            digest = hashlib.sha256(data).digest()
            if digest in seen:
                continue
            seen.add(digest)
            try:
                yield data.decode("utf-8")
            except UnicodeDecodeError:
                continue


def _hub(spec: str, seed: int) -> Groups:
    try:
        import datasets
    except ImportError:
        needed = command("hub", "p2fit-adapters")
        raise RunError(f"a text from the hub needs: {needed}") from None
    parts = re.fullmatch(r"hub:([^:@]+)(?::([^@]+))?(?:@(.+))?", spec)
    if parts is None:
        raise RunError(f"{spec}: give hub:NAME, hub:NAME:CONFIG or hub:NAME:CONFIG@SPLIT")
    name, config, split = parts.groups()
    try:
        stream = datasets.load_dataset(name, config, split=split or "train", streaming=True)
        stream = stream.shuffle(seed=seed, buffer_size=10_000)
        for i, row in enumerate(stream):
            if not isinstance(row.get("text"), str):
                raise RunError(f'{spec}: no column "text" of strings; it has {", ".join(row)}')
            yield f"document {i}", [row["text"]]
    except (OSError, ValueError) as error:
        if isinstance(error, RunError):
            raise
        raise RunError(f"{spec}: {str(error).splitlines()[0]}") from None
