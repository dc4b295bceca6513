"""The options of all commands that run a model, declared once and added to the own options of each command."""

import functools
import inspect
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from bitswap_onnx.campaign.options import DEFAULT_AUDIT, RunOptions
from bitswap_onnx.cli.option_groups import (
    data_option,
    fault_option,
    numerics_option,
    outcome_option,
    run_option,
)
from bitswap_onnx.cli.option_types import (
    BitsOption,
    Exclude,
    Json,
    Kinds,
    Layers,
    Out,
    Parameters,
    Quiet,
)
from bitswap_onnx.cli.view import View
from bitswap_onnx.data.presets import PRESETS
from bitswap_onnx.errors import BitswapError, RunError
from bitswap_onnx.until.goal import UntilScheme

if TYPE_CHECKING:
    from bitswap_onnx.campaign.settings import Settings
    from bitswap_onnx.until.drawn_list import Until

_Data = Annotated[
    str | None,
    data_option(
        metavar="FILE|synthetic[:N]",
        help="Inputs: .npz with x and y, .npy, .pt, CIFAR files or a folder of images; synthetic: N inputs of seeded noise. "
        "Default: the .npz beside MODEL.",
    ),
]
_Labels = Annotated[
    Path | None, data_option(metavar="FILE", help="A file of labels, for a .npy file or a folder of images.")
]
_Preset = Annotated[
    str | None,
    data_option(metavar="NAME", help=f"How to prepare pixels 0-255: {', '.join(PRESETS)}."),
]
_Mean = Annotated[
    str | None,
    data_option(
        metavar="M,..",
        help="Subtract this from the stored values, of uint8 pixels from value / 255 (0 to 1): one number, or one per "
        "channel.",
    ),
]
_Std = Annotated[
    str | None,
    data_option(metavar="S,..", help="Then divide by this, in the same scale: one number, or one per channel."),
]
_Limit = Annotated[int | None, data_option(min=1, metavar="N", help="Run only N inputs, drawn at random with --seed.")]
_InputShape = Annotated[
    str | None,
    data_option(metavar="C,H,W", help="Shape of one input, where model and data leave dimensions open."),
]
_Scores = Annotated[
    str | None,
    outcome_option(
        "--scores",
        metavar="NAME",
        help="The model's output value that holds the scores. Default: the only one that has a row of scores per input.",
    ),
]
_Criterion = Annotated[
    str | None,
    outcome_option(
        metavar="top-1|tolerance=REL",
        help="An inference is critical if its top-1 class changes (default), or if a score moves by more than REL of "
        "the golden range.",
    ),
]
_Fusion = Annotated[
    Literal["framework", "deployed"],
    numerics_option(
        help="framework: compute batch-norm apart from the convolution; deployed: fold it in when the model loads."
    ),
]
_Layout = Annotated[
    Literal["auto", "plain", "blocked"],
    numerics_option(
        help="Kernels: plain, or ONNX Runtime's faster blocked (NCHWc) ones; auto: blocked where cuts stay exact."
    ),
]
_BatchSize = Annotated[
    int | None,
    numerics_option(
        metavar="N",
        min=1,
        help="Batch size of all runs. Default: the model's own, else 32, less for few or large inputs.",
    ),
]


def _shared(
    data: _Data = None,
    labels: _Labels = None,
    preset: _Preset = None,
    mean: _Mean = None,
    std: _Std = None,
    resize: Annotated[
        str | None, data_option(metavar="H,W", help="Resize images to this height and width, in pixels.")
    ] = None,
    data_layout: Annotated[str | None, data_option(metavar="nchw|nhwc", help="Layout of the stored data.")] = None,
    limit: _Limit = None,
    first: Annotated[int | None, data_option(min=1, metavar="N", help="Run only the first N inputs.")] = None,
    seed: Annotated[int, run_option(metavar="N", min=-1, help="Seed of all random draws; -1: from the clock.")] = 0,
    input_shape: _InputShape = None,
    output: _Scores = None,
    criterion: _Criterion = None,
    provider: Annotated[Literal["auto", "cpu", "cuda"], numerics_option(help="Where ONNX Runtime computes.")] = "cpu",
    fusion: _Fusion = "framework",
    layout: _Layout = "auto",
    batch_size: _BatchSize = None,
) -> "Settings":
    """Return the settings of a run from the shared options."""
    from bitswap_onnx.campaign.settings import Settings
    from bitswap_onnx.data.preprocessing import Preprocessing

    preprocessing = Preprocessing(
        preset=preset,
        mean=mean,
        std=std,
        resize=resize,
        data_layout=data_layout.lower() if data_layout else None,
    )
    return Settings(
        data=data,
        labels=labels,
        preprocessing=preprocessing,
        limit=limit,
        first=first,
        seed=seed,
        input_shape=input_shape,
        output=output,
        criterion=criterion,
        provider=provider,
        fusion=fusion,
        layout=layout,
        batch_size=batch_size,
    )


def _run_options(
    out: Annotated[
        Path | None, Out(metavar="RUN", help="The run directory to write. Default: reports/DATASET/NETWORK/TIME.")
    ] = None,
    resume: Annotated[bool, run_option("--resume", help="Continue the run in --out.")] = False,
    workers: Annotated[
        int | None,
        run_option(
            metavar="N", min=0, help="Worker processes, one thread each; 0: run in this process. Default: one per core."
        ),
    ] = None,
    engine: Annotated[
        Literal["auto", "incremental", "reference"],
        run_option(
            help="incremental (auto): compute only what a fault can change; reference: run the whole model per fault."
        ),
    ] = "auto",
    memory: Annotated[
        str | None,
        run_option(
            metavar="SIZE",
            help="Memory that the run may take, in bytes: 500M, 4G, ... Default: half of what is free.",
        ),
    ] = None,
    audit: Annotated[
        str | None,
        run_option(
            metavar="N|P%",
            help="Number or share of injections to run again on the reference engine at the end, each over a chunk of "
            "inputs; 0: none. Default: four over a batch each, then up to ten in all within a twentieth of the time.",
        ),
    ] = None,
) -> RunOptions:
    """Return the options of a run that the command line describes."""
    again = DEFAULT_AUDIT if audit is None else audit
    if resume and out is not None:
        check_resumed(out)
    return RunOptions(run=out, resume=resume, workers=workers, engine=engine, memory=memory, audit=again)


def _view(as_json: Json = False, quiet: Quiet = False) -> View:
    """Return what a command prints."""
    return View(as_json=as_json, quiet=quiet)


def _until(
    until: Annotated[
        str | None,
        fault_option(
            metavar="GOAL",
            help="Instead of FAULTS: draw faults with --seed until a share is known precisely enough. 'critical±0.1%@99%' "
            "(or +-): until half the width of the 99 % interval of the critical share is at most 0.1 points. Shares: "
            "critical, masked, non-critical, nonfinite, critical-nonfinite, critical-or-nonfinite, critical-finite, sdc-5, "
            "sdc-10, sdc-20.",
        ),
    ] = None,
    scheme: Annotated[
        UntilScheme,
        fault_option(
            help="How --until draws. stratified: more from the layers and bit classes that matter most, with an interval "
            "that is valid after every round; iterative: the published method, for comparison."
        ),
    ] = "stratified",
    kinds: Kinds = "flip",
    layers: Layers = None,
    exclude: Exclude = None,
    parameters: Parameters = "weight",
    bits: BitsOption = None,
) -> "Until | None":
    """Return the goal of a campaign that draws its faults; None for one with a fault list."""
    if until is not None:
        from bitswap_onnx.until.drawn_list import Until

        return Until(
            goal=until,
            scheme=scheme,
            kinds=kinds,
            layers=layers,
            exclude=exclude,
            parameters=parameters,
            bits=bits,
        )
    given = {
        "scheme": scheme,
        "kinds": kinds,
        "layers": layers,
        "exclude": exclude,
        "parameters": parameters,
        "bits": bits,
    }
    options = inspect.signature(_until).parameters
    needless = [f"--{name}" for name, value in given.items() if value != options[name].default]
    if needless:
        raise BitswapError(
            f"{', '.join(needless)}: only for faults that --until draws; give --until a goal, or leave this out"
        )
    return None


#: Parameter of a command → the function whose options replace it, and whose result the command gets.
_SHARED: dict[str, Callable[..., Any]] = {"options": _run_options, "until": _until, "settings": _shared, "view": _view}


def with_shared(command: Callable[..., None]) -> Callable[..., None]:
    """Replace ``settings``, ``options``, ``until`` and ``view`` among a command's parameters by the options behind them."""
    declared = inspect.signature(command).parameters
    shared = {name: inspect.signature(_SHARED[name]).parameters for name in _SHARED if name in declared}

    @functools.wraps(command)
    def wrapper(**given: Any) -> None:
        made = {name: _SHARED[name](**{option: given.pop(option) for option in shared[name]}) for name in shared}
        command(**given, **made)

    options = [p for name, p in declared.items() if name not in shared]
    options += [p for replacing in shared.values() for p in replacing.values()]
    parameters = [p.replace(kind=inspect.Parameter.KEYWORD_ONLY) for p in options]
    wrapper.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    wrapper.__annotations__ = {p.name: p.annotation for p in parameters}
    return wrapper


def check_resumed(out: Path) -> None:
    """Raise RunError where a run is to be resumed and there is none: its name may be mistyped."""
    if not out.exists():
        raise RunError(f"{out}: --resume: expected a run directory, found none; leave --resume out to begin one there")
