"""The options of all commands that run a model, declared once and added to the own options of each command."""

import functools
import inspect
import re
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeVar

import typer

from bitswap_onnx.campaign.options import DEFAULT_AUDIT, RunOptions, parse_audit
from bitswap_onnx.data.presets import PRESETS
from bitswap_onnx.errors import BitswapError, RunError
from bitswap_onnx.faults.fault import BIT_KINDS, Kind
from bitswap_onnx.faults.numerals import real, whole
from bitswap_onnx.until.goal import UntilScheme, parse_goal

if TYPE_CHECKING:
    from bitswap_onnx.campaign.settings import Settings
    from bitswap_onnx.until.drawn_list import Until

Number = TypeVar("Number", int, float)
ModelPath = Annotated[Path, typer.Argument(metavar="MODEL", help="An ONNX file.", show_default=False)]
Faults = Annotated[Path, typer.Argument(metavar="FAULTS", help="A fault list (CSV).", show_default=False)]
BitOrderOption = Annotated[
    Literal["lsb", "msb"],
    typer.Option(help="Bit 0 is the least significant bit (lsb) or the sign (msb)."),
]
CheckpointKey = Annotated[
    str | None,
    typer.Option(metavar="KEY", help="Dotted path of keys to the state dict in the checkpoint, like model_ema."),
]
Pretrained = Annotated[bool, typer.Option("--pretrained", help="The trained weights that torchvision or timm has.")]
Layers = Annotated[str | None, typer.Option(metavar="NAME,..", help="Only these layers: globs or parts of names.")]
Exclude = Annotated[str | None, typer.Option(metavar="NAME,..", help="Layers to leave out: globs or parts of names.")]
Parameters = Annotated[str, typer.Option(metavar="ROLE,..", help="Roles or names of parameters; weight: the kernels.")]
BitsOption = Annotated[
    str | None, typer.Option(metavar="BITS", help="Bits: 0-31, or 30,31, or sign, exponent, mantissa. Default: all.")
]
#: Name in --kinds → the kinds that it stands for.
_KINDS = {"stuck_at": (Kind.STUCK_AT_0, Kind.STUCK_AT_1), **{kind.value: (kind,) for kind in Kind if kind in BIT_KINDS}}
Kinds = Annotated[str, typer.Option(metavar="KIND,..", help=f"Kinds of faults, drawn evenly: {', '.join(_KINDS)}.")]
Plot = Annotated[bool, typer.Option("--plot", help="Also draw SVG and PNG figures (needs the extra 'report').")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON instead of tables.")]


_Data = Annotated[
    str | None,
    typer.Option(
        metavar="FILE|synthetic[:N]",
        help="Inputs: .npz with x and y, .npy, .pt, CIFAR files or a folder of images; synthetic: N inputs of seeded noise. "
        "Default: the .npz beside MODEL.",
    ),
]
_Labels = Annotated[Path | None, typer.Option(help="A file of labels, for a .npy file or a folder of images.")]
_Preset = Annotated[
    str | None,
    typer.Option(help=f"How to prepare pixels 0-255: {', '.join(PRESETS)}."),
]
_Mean = Annotated[str | None, typer.Option(metavar="M,..", help="Subtract this: one number, or one per channel.")]
_Std = Annotated[str | None, typer.Option(metavar="S,..", help="Divide by this: one number, or one per channel.")]
_Limit = Annotated[int | None, typer.Option(min=1, metavar="N", help="Run only N inputs, drawn at random with --seed.")]
_InputShape = Annotated[
    str | None,
    typer.Option(metavar="C,H,W", help="Shape of one input, where model and data leave dimensions open."),
]
_Output = Annotated[str | None, typer.Option(metavar="NAME", help="The model's output that holds the scores.")]
_Criterion = Annotated[
    str | None,
    typer.Option(
        metavar="top-1|tolerance=REL",
        help="An inference is critical if its top-1 class changes (default), or if a score moves by more than REL of "
        "the golden range.",
    ),
]
_Fusion = Annotated[
    Literal["framework", "deployed"],
    typer.Option(
        help="framework: compute batch-norm apart from the convolution; deployed: fold it in when the model loads."
    ),
]
_Layout = Annotated[
    Literal["auto", "plain", "blocked"],
    typer.Option(
        help="Kernels: plain, or ONNX Runtime's faster blocked (NCHWc) ones; auto: blocked where cuts stay exact."
    ),
]
_BatchSize = Annotated[
    int | None,
    typer.Option(
        min=1, help="Batch size of all runs. Default: the model's own, else 32, less for few or large inputs."
    ),
]


def check_key(key: str | None, weights: Path | None) -> None:
    """Raise BitswapError if a part of a checkpoint is chosen where no checkpoint is given."""
    if key is not None and weights is None:
        raise BitswapError("--key: expected --weights with it, the checkpoint that the key is in")


def _shared(
    data: _Data = None,
    labels: _Labels = None,
    preset: _Preset = None,
    mean: _Mean = None,
    std: _Std = None,
    resize: Annotated[str | None, typer.Option(metavar="H,W", help="Resize images to this height and width.")] = None,
    data_layout: Annotated[str | None, typer.Option(metavar="nchw|nhwc", help="Layout of the stored data.")] = None,
    limit: _Limit = None,
    first: Annotated[int | None, typer.Option(min=1, metavar="N", help="Run only the first N inputs.")] = None,
    seed: Annotated[int, typer.Option(min=-1, help="Seed of all random draws; -1: from the clock.")] = 0,
    input_shape: _InputShape = None,
    output: _Output = None,
    criterion: _Criterion = None,
    provider: Annotated[Literal["auto", "cpu", "cuda"], typer.Option(help="Where ONNX Runtime computes.")] = "cpu",
    fusion: _Fusion = "framework",
    layout: _Layout = "auto",
    batch_size: _BatchSize = None,
) -> "Settings":
    """Return the settings of a run from the shared options."""
    from bitswap_onnx.campaign.settings import Settings
    from bitswap_onnx.data.preprocessing import Preprocessing

    preprocessing = Preprocessing(
        preset=preset,
        mean=_numbers(mean, "--mean", real),
        std=_numbers(std, "--std", real),
        resize=_pair(resize),
        data_layout=data_layout.lower() if data_layout else None,
    )
    return Settings(
        data=data,
        labels=labels,
        preprocessing=preprocessing,
        limit=limit,
        first=first,
        seed=seed,
        input_shape=_numbers(input_shape, "--input-shape", whole),
        output=output,
        criterion=criterion,
        provider=provider,
        fusion=fusion,
        layout=layout,
        batch_size=batch_size,
    )


def _run_options(
    out: Annotated[Path | None, typer.Option(help="Run directory. Default: reports/DATASET/NETWORK/TIME.")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Continue the run in --out.")] = False,
    workers: Annotated[
        int | None,
        typer.Option(min=0, help="Worker processes, one thread each; 0: run in this process. Default: one per core."),
    ] = None,
    engine: Annotated[
        Literal["auto", "incremental", "reference"],
        typer.Option(
            help="incremental (auto): compute only what a fault can change; reference: run the whole model per fault."
        ),
    ] = "auto",
    memory: Annotated[
        str | None,
        typer.Option(metavar="SIZE", help="Memory that the run may take, e.g. 4G. Default: half of what is free."),
    ] = None,
    audit: Annotated[
        str | None,
        typer.Option(
            metavar="N|P%",
            help="Number or share of injections to run again on the reference engine at the end, each over a chunk of "
            "inputs; 0: none. Default: four over a batch each, then up to ten in all within a twentieth of the time.",
        ),
    ] = None,
) -> RunOptions:
    """Return the options of a run that the command line describes."""
    size, again = parse_size(memory, "--memory"), DEFAULT_AUDIT if audit is None else parse_audit(audit)
    if resume and out is not None:
        check_resumed(out)
    return RunOptions(run=out, resume=resume, workers=workers, engine=engine, memory=size, audit=again)


def _until(
    until: Annotated[
        str | None,
        typer.Option(
            metavar="GOAL",
            help="Instead of FAULTS: draw faults with --seed until a share is known precisely enough. 'critical±0.1%@99%' "
            "(or +-): until half the width of the 99 % interval of the critical share is at most 0.1 points. Shares: "
            "critical, masked, non-critical, nonfinite, critical-nonfinite, critical-or-nonfinite, critical-finite, sdc-5, "
            "sdc-10, sdc-20.",
        ),
    ] = None,
    scheme: Annotated[
        UntilScheme,
        typer.Option(
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
            goal=parse_goal(until),
            scheme=scheme,
            kinds=parse_kinds(kinds),
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
_SHARED: dict[str, Callable[..., Any]] = {"options": _run_options, "until": _until, "settings": _shared}


def with_shared(command: Callable[..., None]) -> Callable[..., None]:
    """Replace the parameters ``settings``, ``options`` and ``until`` of a command by the shared options behind them."""
    declared = inspect.signature(command).parameters
    shared = {name: inspect.signature(_SHARED[name]).parameters for name in _SHARED if name in declared}

    @functools.wraps(command)
    def wrapper(**given: Any) -> None:
        made = {name: _SHARED[name](**{option: given.pop(option) for option in shared[name]}) for name in shared}
        command(**given, **made)

    options = [p for name, p in declared.items() if name not in shared]
    options += [p for name in ("until", "options", "settings") for p in shared.get(name, {}).values()]
    parameters = [p.replace(kind=inspect.Parameter.KEYWORD_ONLY) for p in options]
    wrapper.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    wrapper.__annotations__ = {p.name: p.annotation for p in parameters}
    return wrapper


def parse_size(text: str | None, option: str) -> int | None:
    """Return the number of bytes in ``4G``, ``500M`` or a plain number; raises BitswapError for other texts."""
    if text is None:
        return None
    match = re.fullmatch(r"([0-9]+(?:\.[0-9]+)?)([KMGT]?)(?:i?B)?", text.strip(), re.I | re.A)
    size = int(float(match[1]) * 1024 ** " KMGT".index(match[2].upper() or " ")) if match else 0
    if size < 1:
        raise BitswapError(f"{option}: expected a size like 500M or 4G, found {text!r}")
    return size


def parse_kinds(text: str) -> tuple[Kind, ...]:
    """Return the kinds named in a text like ``flip,stuck_at``; raises BitswapError for other names."""
    names = [part.strip() for part in text.split(",")]
    unknown = next((name for name in names if name not in _KINDS), None)
    if unknown is not None:
        raise BitswapError(f"--kinds: expected some of {', '.join(_KINDS)}, separated by commas, found {unknown!r}")
    return tuple(kind for name in names for kind in _KINDS[name])


def _numbers(text: str | None, option: str, kind: Callable[[str], Number]) -> tuple[Number, ...] | None:
    try:
        return None if text is None else tuple(kind(part) for part in text.split(","))
    except ValueError:
        raise BitswapError(f"{option}: expected numbers separated by commas, found {text!r}") from None


def _pair(text: str | None) -> tuple[int, int] | None:
    numbers = _numbers(text, "--resize", whole)
    if numbers is None:
        return None
    if len(numbers) != 2 or min(numbers) < 1:
        raise BitswapError(f"--resize: expected height,width, found {text!r}")
    return numbers[0], numbers[1]


def check_resumed(out: Path) -> None:
    """Raise RunError where a run is to be resumed and there is none: its name may be mistyped."""
    if not out.exists():
        raise RunError(f"{out}: --resume: expected a run directory, found none; leave --resume out to begin one there")
