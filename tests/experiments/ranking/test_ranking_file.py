"""Rankings that a user gives: every form, every refusal."""

from pathlib import Path

import pytest

from bitswap_onnx.errors import BitswapError
from bitswap_onnx.experiments.ranking.ranking_file import RankingForm, read_ranking

LAYERS = ("conv1", "conv2", "conv3", "fc1", "fc2")


def write(folder: Path, name: str, text: str) -> Path:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


@pytest.mark.parametrize(
    ("name", "text", "form", "order", "read_as", "tied"),
    [
        ("r.json", '["fc2", "conv1", "conv3"]', None, [4, 0, 2], "order", ()),
        ("r.json", '["fc2", "conv1"]', "order", [4, 0], "order", ()),
        ("r.json", "[4, 0, 2]", "order", [4, 0, 2], "order", ()),
        ("r.json", "[3, 1.5, 5, 2, 4]", "rank-values", [1, 3, 0, 4, 2], "rank-values", ()),
        ("r.json", "[3, 1, 3, 1, 2]", "rank-values", [1, 3, 4, 0, 2], "rank-values", LAYERS[:4]),
        ("r.json", '{"fc1": 2, "conv2": 1, "conv1": 2}', None, [1, 0, 3], "rank-values", ("conv1", "fc1")),
        ("r.json", '{"fc1": -2, "conv2": 0.5}', "rank-values", [3, 1], "rank-values", ()),
        ("r.JSON", '\ufeff["fc2"]', None, [4], "order", ()),
        ("r.csv", "layer\nfc2\nconv1\n", None, [4, 0], "order", ()),
        ("r.csv", "\n Layer \n fc2 \n\nconv1", "order", [4, 0], "order", ()),
        ("r.csv", "fc2\nconv1\n", None, [4, 0], "order", ()),
        ("r.csv", "layer,rank\nfc2,2\nconv1,1e0\nfc1,2\n", None, [0, 3, 4], "rank-values", ("fc1", "fc2")),
        ("r.csv", "4\n0\n2\n", "order", [4, 0, 2], "order", ()),
        ("r.csv", "3\n1\n5\n2\n4\n", "rank-values", [1, 3, 0, 4, 2], "rank-values", ()),
    ],
)  # fmt: skip
def test_reads(
    tmp_path: Path,
    name: str,
    text: str,
    form: RankingForm | None,
    order: list[int],
    read_as: str,
    tied: tuple[str, ...],
) -> None:
    ranking = read_ranking(write(tmp_path, name, text), LAYERS, form)
    assert ranking.order.tolist() == order
    assert (ranking.form, ranking.tied) == (read_as, tied)


@pytest.mark.parametrize(
    ("name", "text", "form", "message"),
    [
        ("r.json", '["conv9"]', None, ": entry 1: the model has no layer \"conv9\"; nearest: conv"),
        ("r.json", '["fc1", "fc2", "fc1"]', None, ': entry 3: "fc1" is ranked a second time'),
        ("r.json", '["fc1"]', "rank-values", "a list of layer names is an order, it has no rank values; pass `form` order"),
        ("r.json", "[1, 0]", None, "pass `form` order or `form` rank-values"),
        ("r.json", "[1, 5]", "order", ": entry 2: expected a layer index from 0 to 4, found 5; if these are rank values"),
        ("r.json", "[-1]", "order", ": entry 1: expected a layer index from 0 to 4, found -1"),
        ("r.json", "[1, 2.0]", "order", ": entry 2: expected a layer index from 0 to 4, found 2.0; if these"),
        ("r.json", "[1, 3, 1]", "order", ': entry 3: "conv2" is ranked a second time'),
        ("r.json", "[1, 2]", "rank-values", ": expected 5 rank values, one for each layer, found 2; to rank some"),
        ("r.json", "[1, 2, NaN, 4, 5]", "rank-values", ": entry 3: expected a finite rank value, found NaN"),
        ("r.json", '{"fc1": 1}', "order", "are rank values, not an order; pass `form` rank-values"),
        ("r.json", '{"fc1": 1, "fc1": 2}', None, ': "fc1" is ranked a second time'),
        ("r.json", '{"fc": 1}', None, ': the model has no layer "fc"; nearest: fc'),
        ("r.json", '{"fc1": null}', None, ": fc1: expected a finite rank value, found null; 1 is the most critical"),
        ("r.json", '{"fc1": "1"}', None, ': fc1: expected a finite rank value, found "1"'),
        ("r.json", '{"fc1": true}', None, ": fc1: expected a finite rank value, found true"),
        ("r.json", '{"fc1": [1]}', None, ": fc1: expected a finite rank value, found a list"),
        ("r.json", '{"fc1": -Infinity}', None, ": fc1: expected a finite rank value, found -Infinity"),
        ("r.json", f'{{"fc1": 1{"0" * 400}}}', None, "..."),
        ("r.json", '["fc1", 2]', None, ": entry 2: expected a layer name like the first, found 2; list names alone"),
        ("r.json", '[1, "fc1"]', "order", ': entry 2: expected a number, found "fc1"'),
        ("r.json", "[true]", "order", ": entry 1: expected a number, found true"),
        ("r.json", '[{"layer": 1}]', None, ": entry 1: expected a number, found an object"),
        ("r.json", "[]", None, ": expected a ranking, found no layers; name at least one"),
        ("r.json", "[]", "order", ": expected a ranking, found no layers"),
        ("r.json", "{}", None, ": expected a ranking, found no layers"),
        ("r.json", '"fc1"', None, ': expected a JSON list or object, found "fc1"'),
        ("r.json", "['fc1']", None, ": expected a ranking in JSON: Expecting value"),
        ("r.json", "[" * 100_000, None, ": expected a ranking in JSON: "),
        ("r.json", f"[1{'0' * 5000}]", "order", ": expected a ranking in JSON: "),
        ("r.json", '{"mine": ["fc1", "fc2"]}', "order", ": expected one ranking, "),
        ("r.csv", "layer\nconv9\n", None, 'r.csv:2: the model has no layer "conv9"; nearest: conv'),
        ("r.csv", "layer\nfc1\nfc1\n", None, 'r.csv:3: "fc1" is ranked a second time'),
        ("r.csv", "layer,rank\nfc1,1\nfc2,nan\n", None, "r.csv:3: fc2: expected a finite rank value, found NaN"),
        ("r.csv", "layer,rank\nfc1,first\n", None, 'r.csv:2: fc1: expected a finite rank value, found "first"'),
        ("r.csv", "layer,rank\nfc1,1\n", "order", "are rank values, not an order; pass `form` rank-values"),
        ("r.csv", "layer\nfc1\n", "rank-values", "a list of layer names is an order"),
        ("r.csv", "layer,rank\nfc1\n", None, "r.csv:2: expected 2 cells, found 1; begin with the header"),
        ("r.csv", "fc1,1\n", None, "r.csv:1: expected 1 cell, found 2; begin with the header layer for an order, layer"),
        ("r.csv", "1\n0\n", None, "pass `form` order or `form` rank-values"),
        ("r.csv", "1\n5\n", "order", "r.csv:2: expected a layer index from 0 to 4, found 5; if these are rank values"),
        ("r.csv", "1.5\n", "order", "r.csv:1: expected a layer index from 0 to 4, found 1.5"),
        ("r.csv", "\u0661\n", "order", "the model has no layer \"\\u0661\""),
        ("r.csv", "1_0\n", "order", "the model has no layer \"1_0\""),
        ("r.csv", "layer,rank\nfc1,\u0661\n", None, "r.csv:2: fc1: expected a finite rank value, found \"\\u0661\""),
        ("r.csv", "", None, ": expected a ranking, found no layers"),
        ("r.csv", "layer\n", None, ": expected a ranking, found no layers"),
        ("r.csv", "layer,rank\n", None, ": expected a ranking, found no layers"),
        ("r.csv", "x" * 200_000, None, "r.csv:1: expected CSV: field larger than field limit"),
        ("r.pkl", "", None, "r.pkl: expected a ranking in a .json or .csv file, found .pkl"),
        ("r", "", None, ": expected a ranking in a .json or .csv file, found no suffix"),
    ],
)  # fmt: skip
def test_refuses(tmp_path: Path, name: str, text: str, form: RankingForm | None, message: str) -> None:
    with pytest.raises(BitswapError) as caught:
        read_ranking(write(tmp_path, name, text), LAYERS, form)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
    assert str(tmp_path) in str(caught.value)


def test_layers_with_numbers_for_names(tmp_path: Path) -> None:
    """PyTorch's Sequential names its layers 0, 2, 4: text is a name, a number is an index."""
    layers = ("0", "2", "4")
    assert read_ranking(write(tmp_path, "a.json", '["4", "0"]'), layers).order.tolist() == [2, 0]
    assert read_ranking(write(tmp_path, "b.json", "[1, 0]"), layers, "order").order.tolist() == [1, 0]
    assert read_ranking(write(tmp_path, "c.csv", "layer\n2\n0\n"), layers).order.tolist() == [1, 0]
    with pytest.raises(BitswapError, match="layer names too; begin with the header layer"):
        read_ranking(write(tmp_path, "d.csv", "2\n0\n"), layers, "order")


def test_files_that_cannot_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(BitswapError, match=r"none\.json: cannot read the ranking: No such file"):
        read_ranking(tmp_path / "none.json", LAYERS)
    (tmp_path / "latin.csv").write_bytes(b"layer\nfc\xe91\n")
    with pytest.raises(BitswapError, match="expected UTF-8 text"):
        read_ranking(tmp_path / "latin.csv", LAYERS)
    monkeypatch.setattr("bitswap_onnx.experiments.ranking.ranking_file.MAX_FILE_BYTES", 3)
    with pytest.raises(BitswapError, match="at most 3 bytes, found 7"):
        read_ranking(write(tmp_path, "large.json", '["fc1"]'), LAYERS)
