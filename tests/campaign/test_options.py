"""Settings and options of a run from Python: text and numbers are accepted where they make sense, refused where not."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bitswap_onnx.campaign.options import Audit, RunOptions
from bitswap_onnx.campaign.run import run_campaign
from bitswap_onnx.campaign.settings import Settings, for_neurons
from bitswap_onnx.campaign.setup import prepare
from bitswap_onnx.errors import BitswapError
from bitswap_onnx.faults.fault import Fault, Injection
from tests.builders import cnn, normal, save

WRONG_SETTINGS: list[tuple[dict[str, Any], str]] = [
    ({"provider": "gpu"}, "`provider`: expected auto, cpu, cuda, found 'gpu'"),
    ({"layout": "foo"}, "`layout`: expected auto, plain, blocked, found 'foo'"),
    ({"fusion": None}, "`fusion`: expected framework, deployed, found None"),
    ({"batch_size": 0}, "`batch_size`: expected a whole number of at least 1, found 0"),
    ({"batch_size": 1.5}, "`batch_size`: expected a whole number of at least 1, found 1.5"),
    ({"limit": -1}, "`limit`: expected a whole number of at least 1, found -1"),
    ({"first": True}, "`first`: expected a whole number of at least 1, found True"),
    ({"seed": "a"}, "`seed`: expected a whole number of at least -1, found 'a'"),
    (
        {"data": 3},
        "`data`: expected a path, 'synthetic:N', an array x, a pair (x, y), a dict with x and y, a torch Dataset or",
    ),
    ({"labels": ""}, "`labels`: expected a path, found ''"),
    ({"input_shape": (3, 0)}, "`input_shape`: expected a whole number of at least 1, found 0"),
    ({"input_shape": "3;32"}, "`input_shape`: expected numbers separated by commas, found '3;32'"),
    ({"preprocessing": 3}, "`preprocessing`: expected a Preprocessing, found 3"),
    ({"criterion": "top-5"}, "`criterion`: expected top-1 or tolerance=REL with REL >= 0, found 'top-5'"),
]
WRONG_OPTIONS: list[tuple[dict[str, Any], str]] = [
    ({"engine": "fast"}, "`engine`: expected auto, incremental, reference, found 'fast'"),
    ({"bit_order": "big"}, "`bit_order`: expected lsb, msb, found 'big'"),
    ({"workers": -1}, "`workers`: expected a whole number of at least 0, found -1"),
    ({"workers": "2"}, "`workers`: expected a whole number of at least 0, found '2'"),
    ({"memory": 0}, "`memory`: expected a whole number of at least 1, found 0"),
    ({"audit": "x"}, "`audit`: expected a number of injections (10), a share (5%) or 0, found 'x'"),
    ({"audit": -1}, "`audit`: expected a number of injections (10), a share (5%) or 0, found '-1'"),
    ({"records": ["everything"]}, "`records`: expected scores, per_input, found 'everything'"),
    ({"records": "scores"}, "`records`: expected a list of names, found 'scores'"),
    ({"inputs_per_injection": "some"}, "`inputs_per_injection`: expected auto or a number of inputs"),
    ({"run": 7}, "`run`: expected a path, found 7"),
    ({"save_outputs": "yes"}, "`save_outputs`: expected True or False, found 'yes'"),
    ({"per_input": 3}, "`per_input`: expected True or False, found 3"),
    ({"resume": True}, "`resume` needs `run`: the run directory to continue"),
]


@pytest.mark.parametrize(("wrong", "message"), WRONG_SETTINGS)
def test_wrong_settings(wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(BitswapError) as caught:
        Settings(**wrong)
    assert str(caught.value).startswith(message)


@pytest.mark.parametrize(("wrong", "message"), WRONG_OPTIONS)
def test_wrong_options(wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(BitswapError) as caught:
        RunOptions(**wrong)
    assert str(caught.value).startswith(message)


def test_text_and_numpy_numbers_are_taken() -> None:
    settings = Settings(data="test.npz", seed=np.int64(3), batch_size=np.int32(8), input_shape=[1, 6, 6])  # type: ignore[arg-type]
    assert (settings.data, settings.seed, settings.batch_size) == (Path("test.npz"), 3, 8)
    assert settings.input_shape == (1, 6, 6)
    assert type(settings.seed) is type(settings.batch_size) is int
    options = RunOptions(run="r", audit="5%", inputs_per_injection="16")  # type: ignore[arg-type]
    assert (options.folder, options.audit_size, options.inputs_per_injection) == (Path("r"), Audit(share=0.05), 16)
    assert RunOptions(audit=3).audit_size == Audit(3)


def test_a_seed_from_the_clock_is_kept() -> None:
    settings = Settings(seed=-1)
    assert settings.from_clock
    assert for_neurons(settings).seed == settings.seed >= 0


@pytest.mark.parametrize("parameter", [{"layout": "blocked"}, {"fusion": "deployed"}])
def test_numerics_that_neurons_cannot_have(parameter: dict[str, Any]) -> None:
    with pytest.raises(BitswapError, match="neuron faults need `layout` plain and `fusion` framework"):
        for_neurons(Settings(**parameter))


def test_paths_as_text_and_no_workers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A campaign in this process, with all paths as text."""
    save(cnn(), tmp_path / "cnn.onnx")
    np.savez(tmp_path / "test.npz", x=normal(8, 1, 6, 6, seed=3), y=np.arange(8) % 4)
    monkeypatch.chdir(tmp_path)
    setup = prepare("cnn.onnx", Settings(data="test.npz", batch_size=4))
    campaign = run_campaign(
        setup, [Injection("a", (Fault("fc", (0, 0), 30),))], options=RunOptions(run="run", workers=0)
    )
    assert campaign.run == Path("run")
    assert (tmp_path / "run/results.csv").is_file()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            (5, []),
            "`model`: expected the path of an ONNX file, a Model, an onnx.ModelProto, a torch.nn.Module or a Keras",
        ),
        ((None, [], RunOptions()), "`data`: expected inputs, found RunOptions; give options=RunOptions(...)"),
        (
            (None, [], "x.npz"),
            "`settings`: expected none with a prepared model, found some; give them and `data` to prep",
        ),
        ((None, ["a"]), "`faults`: expected the path of a fault list, Fault or Injection objects, or a DataFrame with"),
        (
            (None, 5),
            "`faults`: expected the path of a fault list, Fault or Injection objects, or a DataFrame with a list's",
        ),
    ],
)
def test_wrong_arguments(arguments: tuple[Any, ...], message: str, tmp_path: Path) -> None:
    setup, *rest = arguments
    prepared = (
        prepare(save(cnn(), tmp_path / "cnn.onnx"), Settings(data="synthetic:2", batch_size=2))
        if setup is None
        else setup
    )
    with pytest.raises(BitswapError) as caught:
        run_campaign(prepared, *rest)
    assert str(caught.value).startswith(message)
    assert not (tmp_path / "reports").exists()


@pytest.mark.parametrize("wrong", [{"bit": "3"}, {"bit": 3.0}, {"index": "(0, 0)"}, {"index": 5}, {"input": "all"}])
def test_faults_have_whole_numbers(wrong: dict[str, Any]) -> None:
    with pytest.raises(BitswapError, match="expected whole numbers, `index` a tuple of them, found"):
        Fault(**{"layer": "fc", "index": (0, 0), "bit": 3, **wrong})


def test_a_preset_by_its_name() -> None:
    assert Settings(preprocessing="cifar10").preprocessing.preset == "cifar10"  # type: ignore[arg-type]


def test_a_resume_of_nothing_says_so(tmp_path: Path) -> None:
    notes: list[str] = []
    setup = prepare(save(cnn(), tmp_path / "cnn.onnx"), Settings(data="synthetic:2", batch_size=2))
    options = RunOptions(run=tmp_path / "run", resume=True, workers=0, on_notes=notes.extend)
    run_campaign(setup, [Injection("a", (Fault("fc", (0, 0), 30),))], options=options)
    assert f"`resume`: {tmp_path / 'run'} holds no campaign yet, so this one begins there" in notes
