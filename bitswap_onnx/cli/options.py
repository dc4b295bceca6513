"""The options of everything that runs a model, declared once and added to each such command's own."""

import functools
import inspect
import re
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import typer

from bitswap_onnx.campaign.audit import parse_audit
from bitswap_onnx.campaign.options import RunOptions
from bitswap_onnx.campaign.settings import FROM_CLOCK, Settings
from bitswap_onnx.data.preprocessing import Preprocessing
from bitswap_onnx.errors import BitswapError
from bitswap_onnx.faults.fault import BIT_KINDS, Kind
from bitswap_onnx.faults.numerals import real, whole
from bitswap_onnx.until.drawn_list import Until
from bitswap_onnx.until.goal import parse_goal
from bitswap_onnx.until.planners import UntilScheme

Number = TypeVar("Number", int, float)
ModelPath = Annotated[Path, typer.Argument(metavar="MODEL", help="An ONNX file.", show_default=False)]
Faults = Annotated[Path, typer.Argument(metavar="FAULTS", help="A fault list (CSV).", show_default=False)]
BitOrderOption = Annotated[
    Literal["lsb", "msb"],
    typer.Option(help="How the list counts bits: lsb: 0 is the least significant; msb: 0 is the sign."),
]
Layers = Annotated[str | None, typer.Option(metavar="NAME,..", help="Layers: globs or parts of names.")]
Exclude = Annotated[str | None, typer.Option(metavar="NAME,..", help="Layers to leave out, likewise.")]
Parameters = Annotated[str, typer.Option(metavar="ROLE,..", help="Roles, or names of parameters; weight: kernels.")]
BitsOption = Annotated[
    str | None, typer.Option(metavar="BITS", help="0-31, or 30,31, or sign, exponent, mantissa. Default: all.")
]
#: Kinds by the names that --kinds takes.
_KINDS = {"stuck_at": (Kind.STUCK_AT_0, Kind.STUCK_AT_1), **{kind.value: (kind,) for kind in Kind if kind in BIT_KINDS}}
Kinds = Annotated[str, typer.Option(metavar="KIND,..", help=f"Of {', '.join(_KINDS)}; drawn evenly.")]
Plot = Annotated[bool, typer.Option("--plot", help="Draw SVG and PNG figures (needs the extra report).")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON for programs.")]


def _shared(
    data: Annotated[
        Path | None,
        typer.Option(help="Inputs: .npz (x, y), .npy, CIFAR files, an image folder. Default: MODEL with suffix .npz."),
    ] = None,
    labels: Annotated[Path | None, typer.Option(help="Labels of a .npy file or an image folder.")] = None,
    preset: Annotated[
        str | None,
        typer.Option(
            help="cifar10, cifar100, gtsrb, imagenet-torch, imagenet-tf, imagenet-caffe or imagenet-identity."
        ),
    ] = None,
    mean: Annotated[str | None, typer.Option(metavar="M,..", help="Subtract, per channel.")] = None,
    std: Annotated[str | None, typer.Option(metavar="S,..", help="Divide by, per channel.")] = None,
    resize: Annotated[str | None, typer.Option(metavar="H,W", help="Resize the images.")] = None,
    data_layout: Annotated[str | None, typer.Option(metavar="nchw|nhwc", help="Layout of the stored data.")] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="A seeded random N of the inputs.")] = None,
    first: Annotated[int | None, typer.Option(min=1, help="The first N inputs.")] = None,
    seed: Annotated[int, typer.Option(min=FROM_CLOCK, help="Seed of what is drawn; -1: from the clock.")] = 0,
    input_shape: Annotated[
        str | None,
        typer.Option(metavar="C,H,W", help="Settles open dimensions of the model's input, without the batch."),
    ] = None,
    output: Annotated[str | None, typer.Option(metavar="NAME", help="The output that holds the scores.")] = None,
    criterion: Annotated[
        str | None, typer.Option(metavar="top-1|tolerance=REL", help="What makes an inference critical.")
    ] = None,
    provider: Annotated[Literal["auto", "cpu", "cuda"], typer.Option(help="Where ONNX Runtime computes.")] = "cpu",
    fusion: Annotated[
        Literal["framework", "deployed"],
        typer.Option(help="framework: batch-norm apart from the convolution; deployed: folded when the model loads."),
    ] = "framework",
    layout: Annotated[
        Literal["auto", "plain", "blocked"], typer.Option(help="blocked: NCHWc; auto: if exact.")
    ] = "auto",
    batch_size: Annotated[int | None, typer.Option(min=1, help="The one batch size of all runs. Default: 32.")] = None,
) -> Settings:
    """Return the settings that the shared options describe."""
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
    resume: Annotated[bool, typer.Option("--resume", help="Continue what is in --out.")] = False,
    workers: Annotated[
        int | None, typer.Option(min=0, help="Processes of one thread each; 0: all in this one. Default: one per core.")
    ] = None,
    engine: Annotated[
        Literal["auto", "incremental", "reference"],
        typer.Option(help="incremental (auto): only what a fault can change. reference: the whole model per fault."),
    ] = "auto",
    memory: Annotated[
        str | None, typer.Option(metavar="SIZE", help="For all workers, e.g. 4G. Default: half of what is free.")
    ] = None,
    audit: Annotated[
        str, typer.Option(metavar="N|P%", help="Injections to run again on the reference engine at the end; 0: none.")
    ] = "10",
) -> RunOptions:
    """Return the options of a run that the command line describes."""
    size = parse_size(memory, "--memory")
    return RunOptions(run=out, resume=resume, workers=workers, engine=engine, memory=size, audit=parse_audit(audit))


def _until(
    until: Annotated[
        str | None,
        typer.Option(
            metavar="GOAL",
            help="Instead of FAULTS: draw faults with --seed until a share is known so well, 'critical±0.1%@99%' (or +-). "
            "The margin, in points, is half of the interval, which holds at every look. Shares: critical, masked, "
            "non-critical, nonfinite, critical-nonfinite, critical-or-nonfinite, critical-finite, sdc-5, sdc-10, sdc-20.",
        ),
    ] = None,
    scheme: Annotated[
        UntilScheme,
        typer.Option(
            help="How --until draws. stratified: from layers and classes of bits, as often as it pays; iterative: the "
            "published method, for comparison."
        ),
    ] = "stratified",
    kinds: Kinds = "flip",
    layers: Layers = None,
    exclude: Exclude = None,
    parameters: Parameters = "weight",
    bits: BitsOption = None,
) -> Until | None:
    """Return what a campaign without a fault list runs for."""
    if until is not None:
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
            f"{', '.join(needless)}: for faults that --until draws; give a goal with it, or leave it out"
        )
    return None


#: What a command's parameter of such a name stands for: the options of a function that makes it.
_SHARED: dict[str, Callable[..., Any]] = {"settings": _shared, "options": _run_options, "until": _until}


def with_shared(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command the options that its parameters ``settings``, ``options`` and ``until`` stand for instead."""
    own = inspect.signature(command).parameters
    shared = {name: inspect.signature(_SHARED[name]).parameters for name in _SHARED if name in own}

    @functools.wraps(command)
    def wrapper(**given: Any) -> None:
        made = {name: _SHARED[name](**{option: given.pop(option) for option in shared[name]}) for name in shared}
        command(**given, **made)

    options = [p for name, p in own.items() if name not in shared]
    options += [p for name in reversed(shared) for p in shared[name].values()]
    parameters = [p.replace(kind=inspect.Parameter.KEYWORD_ONLY) for p in options]
    wrapper.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    wrapper.__annotations__ = {p.name: p.annotation for p in parameters}
    return wrapper


def parse_size(text: str | None, option: str) -> int | None:
    """Return the bytes that ``4G``, ``500M`` or a plain number says; raises BitswapError for anything else."""
    if text is None:
        return None
    match = re.fullmatch(r"([0-9]+(?:\.[0-9]+)?)([KMGT]?)(?:i?B)?", text.strip(), re.I | re.A)
    size = int(float(match[1]) * 1024 ** " KMGT".index(match[2].upper() or " ")) if match else 0
    if size < 1:
        raise BitswapError(f"{option}: expected a size like 500M or 4G, found {text!r}")
    return size


def parse_kinds(text: str) -> tuple[Kind, ...]:
    """Return the kinds that ``flip,stuck_at`` names; raises BitswapError for anything else."""
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
