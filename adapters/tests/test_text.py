"""Text: what is held out, how windows follow each other, and where it comes from."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from p2fit_adapters import RunError, Text, TextSource, prepare
from p2fit_adapters.sources import groups
from p2fit_adapters.tokenizer import load_tokenizer


def of(spec: str | Path, folder: Path, models: dict[str, str], tokens: int = 4000) -> Text:
    source = TextSource(str(spec), seq_len=16, eval_tokens=400)
    return prepare(source, models["llama"], 384, tokens, folder)


def decoded(text: Text, windows: np.ndarray) -> str:
    return load_tokenizer(text.tokenizer_path).decode(windows.flatten().tolist())


def test_held_out_files_are_not_trained_on(
    words: Path, tmp_path: Path, models: dict[str, str]
) -> None:
    folder = tmp_path / "words"
    folder.mkdir()
    for path in words.glob("*.txt"):  # each file says its name in every line
        lines = [f"file-{path.stem} {line}" for line in path.read_text().splitlines()]
        (folder / path.name).write_text("\n".join(lines))
    text = of(folder, tmp_path / "store", models, tokens=10**9)
    held = set(text.meta["held_out"])
    trained = decoded(text, text.train)
    evaluated = decoded(text, text.evaluation)
    assert held
    for path in folder.glob("*.txt"):
        assert (f"file-{path.stem} " in trained) == (path.name not in held)
        if f"file-{path.stem} " in evaluated:
            assert path.name in held
    assert text.evaluation.shape == (25, 16)


def test_the_same_text_is_read_once_and_is_the_same_again(
    words: Path, tmp_path: Path, models: dict[str, str]
) -> None:
    first = of(words, tmp_path / "a", models)
    made = {path: path.stat().st_mtime_ns for path in (tmp_path / "a").glob("*/*")}
    again = of(words, tmp_path / "a", models)
    elsewhere = of(words, tmp_path / "b", models)
    assert made == {path: path.stat().st_mtime_ns for path in (tmp_path / "a").glob("*/*")}
    for other in (again, elsewhere):
        assert other.meta == first.meta
        assert (other.evaluation == first.evaluation).all()
    # More training tokens, or another seed of a run, leave the evaluation set as it is …
    more = of(words, tmp_path / "a", models, tokens=30_000)
    assert more.meta["evaluation_fingerprint"] == first.meta["evaluation_fingerprint"]
    # … and another split seed does not.
    other = prepare(
        TextSource(str(words), 16, 400, split_seed=1), models["llama"], 384, 4000, tmp_path / "a"
    )
    assert other.meta["evaluation_fingerprint"] != first.meta["evaluation_fingerprint"]


def test_one_integer_is_the_place_in_a_stream_that_sees_each_window_once_an_epoch(
    words: Path, tmp_path: Path, models: dict[str, str]
) -> None:
    text = of(words, tmp_path, models)
    n = len(text.train)
    whole = text.batch(0, 2 * n, seed=3).numpy()
    for epoch in (whole[:n], whole[n:]):
        assert sorted(map(tuple, epoch)) == sorted(map(tuple, text.train))
    assert not (whole[:n] == whole[n:]).all()
    assert (text.batch(n - 5, 10, seed=3).numpy() == whole[n - 5 : n + 5]).all()
    assert not (text.batch(0, n, seed=4).numpy() == whole[:n]).all()


def test_one_long_file_is_held_out_at_its_end(tmp_path: Path, models: dict[str, str]) -> None:
    path = tmp_path / "long.txt"
    path.write_text("\n".join(f"line {i} of the file" for i in range(4000)))
    text = of(path, tmp_path / "store", models, tokens=10**9)
    assert "line 3999 " not in decoded(text, text.train)
    assert "line 17 " in decoded(text, text.train)
    assert "line 17 " not in decoded(text, text.evaluation)
    assert text.meta["held_out"] == ["the last 3200 characters of long.txt"]


def test_lines_of_json_are_documents(tmp_path: Path, models: dict[str, str]) -> None:
    lines = [json.dumps({"text": f"document {i} " + "word " * 100}) for i in range(60)]
    path = tmp_path / "data.jsonl"
    path.write_text("\n".join(lines))
    text = of(path, tmp_path / "store", models, tokens=10**9)
    trained = decoded(text, text.train)
    assert sum(f"document {i} " in trained for i in range(60)) == 60 - len(text.meta["held_out"])
    path.write_text(lines[0] + "\n{}\n")
    with pytest.raises(RunError, match=r"data\.jsonl:2: not a JSON object"):
        of(path, tmp_path / "other", models)


def test_the_corpus_holds_out_whole_packages(tmp_path: Path, models: dict[str, str]) -> None:
    text = of("corpus", tmp_path, models)
    held = text.meta["held_out"]
    order = [name for name, _ in groups("corpus", 0)]
    assert held == order[: len(held)]
    assert len(set(order)) == len(order) > 20
    assert text.meta["tokens"] >= 4000


def test_a_hub_data_set_is_streamed(
    tmp_path: Path, models: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A data set of ``datasets`` in place of the hub, which tests cannot reach."""
    import datasets

    asked = []

    def load(name: str, config: str | None, split: str, streaming: bool) -> object:
        asked.append((name, config, split, streaming))
        rows = {"text": [f"document {i} " + "word " * 50 for i in range(200)]}
        return datasets.Dataset.from_dict(rows).to_iterable_dataset()

    monkeypatch.setattr(datasets, "load_dataset", load)
    text = of("hub:owner/name:config@test", tmp_path, models)
    assert asked == [("owner/name", "config", "test", True)]
    assert len(text.train)
    assert len(text.evaluation)
    of("hub:owner/name", tmp_path, models)
    assert asked[1:] == [("owner/name", None, "train", True)]
    with pytest.raises(RunError, match="give hub:NAME"):
        of("hub:", tmp_path, models)


@pytest.mark.parametrize(
    ("write", "words_"),
    [
        (lambda p: None, "no such file or folder"),
        (lambda p: p.mkdir(), "empty folder"),
        (lambda p: p.write_bytes(b"\xff\xfe\x00" * 999), "cannot be read as UTF-8"),
        (lambda p: p.write_text("short"), "too few to hold out"),
    ],
)
def test_a_text_that_will_not_do_is_named(
    tmp_path: Path, models: dict[str, str], write: object, words_: str
) -> None:
    path = tmp_path / "text"
    write(path)  # type: ignore[operator]
    with pytest.raises(RunError, match=words_):
        of(path, tmp_path / "store", models)
    assert not [p for p in tmp_path.glob("store/*") if not p.name.startswith(".")]


def test_a_tokenizer_of_another_model_is_noticed(
    words: Path, tmp_path: Path, models: dict[str, str]
) -> None:
    first = of(words, tmp_path / "a", models)
    with pytest.raises(RunError, match="a vocabulary of 300"):
        prepare(TextSource(str(words), 16, 400), first.tokenizer_path, 300, 4000, tmp_path / "b")
    with pytest.raises(RunError, match="too small to train a tokenizer"):
        prepare(TextSource(str(words), 16, 400), models["llama"], 200, 4000, tmp_path / "b")
