"""Rebuild the text of the large study from packages: ``corpus.py FOLDER``.

Prose is Debian 12's books, manuals and RFCs, code the sources of Python packages. Downloads go by
``apt-get download`` and ``pip download``, through whatever mirrors this machine is set up with;
the RFCs are in Debian's component non-free, which need not be switched on. ``manifest.json`` beside
this file is what the study had: packages with versions, licences, bytes and hashes. A second run
compares with it and says what differs.

Each document is one file. A paragraph that was seen before, in any document, is left out. Whole
sources (an RFC, a Debian package, a Python package) are held out: slices of them take turns in the
one file that p2fit's adapters hold out, and the rest of them is in no file.
"""

from __future__ import annotations

import gzip
import hashlib
import itertools
import json
import random
import re
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path

from p2fit_adapters.sources import groups

#: None of these comes from Debian's security archive, where versions come and go.
MANUALS = """
    abs-guide ada-reference-manual-2012 anarchism bash-doc cfi-en cmake-doc debian-faq
    debian-handbook debian-policy debian-reference-en developers-reference dict-foldoc
    dict-gcide dict-jargon exim4-doc-html fortunes fp-docs-3.2.2 freedombox-doc-en
    gimp-help-en gnome-user-docs gnu-standards installation-guide-amd64 lilypond-doc-html
    maint-guide maxima-doc mh-book miscfiles octave-doc png-definitive-guide python-pandas-doc
    python-scipy-doc python-sympy-doc r-doc-html sagemath-doc sphinx-doc zsh-doc
""".split()  # noqa: SIM905
RFCS = """
    doc-rfc-experimental doc-rfc-fyi-bcp doc-rfc-informational doc-rfc-std
    doc-rfc-std-proposed
""".split()  # noqa: SIM905
WHEELS = """
    Django==5.2.8 Flask==3.1.2 Jinja2==3.1.6 Pygments==2.19.2 Sphinx==8.2.3 Twisted==25.5.0
    Werkzeug==3.1.3 ansible-core==2.19.4 astroid==4.0.2 bokeh==3.8.0 click==8.3.0
    dask==2025.11.0 distributed==2025.11.0 docutils==0.22.2 fastapi==0.121.0
    hypothesis==6.145.0 ipython==9.6.0 jedi==0.19.2 matplotlib==3.10.7 mpmath==1.3.0
    networkx==3.5 nltk==3.9.2 numpy==2.3.4 pandas==2.3.3 pip==25.3 pylint==4.0.2 pytest==9.0.0
    requests==2.32.5 rich==14.2.0 scikit-learn==1.7.2 scipy==1.16.3 setuptools==80.9.0
    sympy==1.14.0 transformers==4.57.1 urllib3==2.5.0 xarray==2025.10.1
""".split()  # noqa: SIM905

EACH, RFC_BYTES, CODE_BYTES = 6_000_000, 90_000_000, 75_000_000
"""Text of one package, of all RFCs and of all code, at most."""
SMALLEST, LARGEST = 2_000, 200_000  # characters of a document; a longer one is cut
HELD_OUT = {"rfc": 6, "manual": 5, "code": 5}  # sources
SLICE, LEAST = 4_000, 40_000  # characters of a held-out source: in turn, and what it must have


class _Text(HTMLParser):
    """The words of a page, without its scripts, menus and head."""

    HIDDEN = frozenset({"head", "script", "style", "nav", "footer"})
    BREAKS = frozenset(
        {"p", "div", "li", "tr", "pre", "h1", "h2", "h3", "h4", "dt", "dd", "section"}
    )

    def __init__(self) -> None:
        super().__init__()
        self.parts: list[str] = []
        self.hidden = self.pre = 0

    def handle_starttag(self, tag: str, attrs: object) -> None:
        self.hidden += tag in self.HIDDEN
        self.pre += tag == "pre"
        if tag in self.BREAKS:
            self.parts.append("\n\n" if tag != "li" else "\n")
        elif tag == "br":
            self.parts.append("\n")

    def handle_endtag(self, tag: str) -> None:
        self.hidden = max(0, self.hidden - (tag in self.HIDDEN))
        self.pre = max(0, self.pre - (tag == "pre"))
        if tag in self.BREAKS:
            self.parts.append("\n")

    def handle_data(self, data: str) -> None:
        if not self.hidden:
            self.parts.append(data if self.pre else re.sub(r"\s+", " ", data))


def words(name: str, data: bytes) -> str | None:
    """The text of a file; None where it has none."""
    if name.endswith((".gz", ".dz")):
        data, name = gzip.decompress(data), name[:-3]
    suffix = Path(name).suffix
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError:
        return None
    if suffix in {".html", ".htm", ".xhtml", ".page"}:
        parser = _Text()
        parser.feed(text)
        text = "".join(parser.parts)
    elif suffix not in {".txt", ".rst", ".md", ".py", ".pod", ".dict", ".info", ""}:
        return None
    # Ends of an RFC's pages
    text = re.sub(r"\n+[^\n]*\[Page \d+\]\n\f?\n?[^\n]*\n+", "\n\n", text.replace("\r\n", "\n"))
    text = re.sub(r"[ \t]+\n", "\n", text.replace("\f", ""))
    text = re.sub(r"\n{3,}", "\n\n", text).strip()
    ascii_letters = len(re.findall(r"[A-Za-z]", text))
    is_english = text.isascii() or len(text.encode("ascii", "ignore")) > 0.98 * len(text)
    return text if is_english and ascii_letters > 0.5 * len(text) else None


class Once:
    """Drops paragraphs seen before."""

    def __init__(self) -> None:
        self.seen: set[bytes] = set()

    def __call__(self, text: str) -> str:
        kept = []
        for paragraph in text.split("\n\n"):
            if len(paragraph) > 60:
                digest = hashlib.blake2b(
                    "".join(paragraph.split()).encode(), digest_size=12
                ).digest()
                if digest in self.seen:
                    continue
                self.seen.add(digest)
            kept.append(paragraph)
        return "\n\n".join(kept)


def shell(*command: str, cwd: Path | None = None) -> str:
    done = subprocess.run(command, cwd=cwd, stdout=subprocess.PIPE, text=True)
    if done.returncode:
        sys.exit(f"failed: {' '.join(command)}")
    return done.stdout


def with_non_free(work: Path) -> list[str]:
    """Options for apt: the same mirrors and release as this machine's, main and non-free alone."""
    uris = shell(
        "apt-get", "indextargets", "--format", "$(REPO_URI)",
        "Created-By: Packages", "Component: main", "Codename: bookworm", "Origin: Debian",
    ).split()  # fmt: skip
    if not uris:
        sys.exit("no Debian 12 among the sources of apt, or apt-get update has not been run")
    for folder in ("apt/lists/partial", "apt/archives/partial"):
        (work / folder).mkdir(parents=True)
    (work / "apt/debian.list").write_text(f"deb {uris[0]} bookworm main non-free\n")
    options = [
        f"Dir::Etc::sourcelist={work}/apt/debian.list", "Dir::Etc::sourceparts=-",
        f"Dir::State::lists={work}/apt/lists", f"Dir::Cache={work}/apt", "APT::Sandbox::User=root",
    ]  # fmt: skip
    return list(itertools.chain.from_iterable(("-o", option) for option in options))


def debian(work: Path, names: list[str]) -> Iterator[tuple[str, dict[str, object], list[Path]]]:
    """Name, what is recorded and the unpacked files of each package."""
    options = with_non_free(work)
    shell("apt-get", *options, "update")
    shell("apt-get", *options, "download", *names, cwd=work)
    for archive in sorted(work.glob("*.deb")):
        name, version = shell("dpkg-deb", "-f", str(archive), "Package", "Version").split("\n")[:2]
        name, version = (field.partition(": ")[2] for field in (name, version))
        folder = work / name
        shell("dpkg-deb", "-x", str(archive), str(folder))
        named = folder / "usr/share/doc" / name / "copyright"
        terms = named.read_text(encoding="utf-8", errors="ignore") if named.is_file() else ""
        licences = sorted(set(re.findall(r"^License: *(\S.*)$", terms, re.M)))
        files = [
            path
            for path in sorted(folder.rglob("*"))
            if path.is_file() and not path.is_symlink() and path.name != "copyright"
            and not path.name.startswith("changelog") and "_sources" not in path.parts
            and "_modules" not in path.parts
        ]  # fmt: skip
        yield name, record(archive, version, "; ".join(licences) or "its file copyright"), files


def python(work: Path) -> Iterator[tuple[str, dict[str, object], list[Path]]]:
    pip = (sys.executable, "-m", "pip", "download", "-q", "--no-deps", "--only-binary=:all:")
    platform = ("--python-version", "3.11", "--platform", "manylinux_2_28_x86_64")
    also = itertools.chain.from_iterable(
        ("--platform", p) for p in ("manylinux_2_27_x86_64", "manylinux2014_x86_64", "any")
    )
    shell(*pip, *platform, *also, "-d", str(work), *WHEELS)
    for archive in sorted(work.glob("*.whl")):
        name, version = archive.name.split("-")[:2]
        with zipfile.ZipFile(archive) as wheel:
            inside = [n for n in wheel.namelist() if n.endswith(".py")]
            wheel.extractall(work / name, inside)
            terms = wheel.read(
                next(n for n in wheel.namelist() if n.endswith(".dist-info/METADATA"))
            )
        fields = re.findall(
            r"^(?:License-Expression: |Classifier: License :: )(.+)$", terms.decode(), re.M
        )
        yield name, record(archive, version, "; ".join(fields)), sorted((work / name).rglob("*.py"))


def record(archive: Path, version: str, licence: str) -> dict[str, object]:
    digest = hashlib.sha256(archive.read_bytes()).hexdigest()
    return {"version": version, "licence": licence, "archive_sha256": digest}


def build(out: Path) -> dict[str, object]:
    """Write the files, and return the manifest."""
    once, chance = Once(), random.Random(0)
    sources: dict[tuple[str, str], list[str]] = {}
    packages: dict[str, dict[str, object]] = {}
    totals = {"rfc": 0, "manual": 0, "code": 0}
    most = {"rfc": RFC_BYTES, "manual": 10**12, "code": CODE_BYTES}
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        for name, about, files in itertools.chain(debian(work, MANUALS + RFCS), python(work)):
            kind = "rfc" if name in RFCS else "code" if name not in MANUALS else "manual"
            each = EACH if kind != "rfc" else RFC_BYTES
            chance.shuffle(files)
            size = documents = 0
            for path in files:
                if size >= each or totals[kind] >= most[kind]:
                    break
                if kind == "rfc" and not re.fullmatch(r"rfc\d+\.txt(\.gz)?", path.name):
                    continue
                raw = words(path.name, path.read_bytes())
                text = once(raw) if raw else ""
                if len(text) < SMALLEST:
                    continue
                source = path.name.partition(".")[0] if kind == "rfc" else name
                for start in range(0, min(len(text), each), LARGEST):
                    piece = text[start : start + LARGEST]
                    sources.setdefault((kind, source), []).append(piece)
                    size += len(piece)
                    totals[kind] += len(piece)
                    documents += 1
            packages[name] = {"kind": kind, **about, "documents": documents, "characters": size}
            print(name, packages[name]["version"], f"{size / 1e6:.1f} MB", flush=True)
    held: list[str] = []
    for kind, count in HELD_OUT.items():
        able = [
            source for (k, source), texts in sorted(sources.items())
            if k == kind and LEAST <= sum(map(len, texts)) <= EACH
        ]  # fmt: skip
        held += (f"{kind}/{source}" for source in chance.sample(able, count))
    chance.shuffle(held)
    texts = ["\n\n".join(sources.pop(tuple(name.split("/", 1)))) for name in held]  # type: ignore[call-overload]
    slices = [[t[i : i + SLICE] for i in range(0, len(t), SLICE)] for t in texts]
    mixed = "\n\n".join(p for turn in itertools.zip_longest(*slices) for p in turn if p)[:1_000_000]
    documents_ = [text for _, found in sorted(sources.items()) for text in found]
    chance.shuffle(documents_)
    names = [f"{i:06}.txt" for i in range(len(documents_) + 1)]
    out.mkdir(parents=True)
    for name in names:
        (out / name).touch()
    first = next(iter(groups(str(out), 0)))[0]  # what is held out is what comes first
    digest = hashlib.sha256()
    for name, text in zip(
        [first, *(n for n in names if n != first)], [mixed, *documents_], strict=True
    ):
        (out / name).write_text(text, encoding="utf-8")
        digest.update(text.encode())
    return {
        "documents": len(documents_),
        "characters": {**totals, "all that is trained on": sum(map(len, documents_))},
        "sha256": digest.hexdigest(),
        "held_out": {"sources": sorted(held), "file": first, "characters": len(mixed)},
        "packages": packages,
    }


def main() -> None:
    manifest = Path(__file__).with_name("manifest.json")
    made = json.loads(json.dumps(build(Path(sys.argv[1]))))
    if not manifest.exists():
        manifest.write_text(json.dumps(made, indent=1) + "\n")
        return
    was = json.loads(manifest.read_text())
    if was == made:
        print("the same text as the study's, to the byte")
        return
    changed = [n for n, p in made["packages"].items() if p != was["packages"].get(n)]
    sys.exit(f"not the study's text: {', '.join(changed) or 'another order'} differ")


if __name__ == "__main__":
    main()
