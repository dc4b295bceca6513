"""``crosscheck``: ONNX Runtime against native torch, Keras and TensorFlow."""

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from bitswap_onnx.cli import console
from bitswap_onnx.cli.option_groups import fault_option, network_option, outcome_option, run_option
from bitswap_onnx.cli.option_types import BitOrderOption, CheckpointKey, Faults, ModelPath, Out, Pretrained, check_key
from bitswap_onnx.cli.options import with_shared
from bitswap_onnx.errors import BitswapError, amount

if TYPE_CHECKING:
    from bitswap_onnx.campaign.settings import Settings
    from bitswap_onnx.converters.native import Native
    from bitswap_onnx.experiments.crosscheck.agreement import Agreement
    from bitswap_onnx.experiments.crosscheck.run import Verdict
    from bitswap_onnx.graph.model import Model

_FORMS = (
    "torch:MODULE:CALLABLE, torch:model.pt2, torch:torchvision:NAME, torch:timm:NAME, torch:zoo:NAME:DATASET, "
    "keras:model.keras or tf"
)


@with_shared
def command(
    model: ModelPath,
    faults: Faults,
    settings: "Settings",
    native: Annotated[list[str], network_option(metavar="FRAMEWORK:...", help=f"{_FORMS}; may be repeated.")],
    weights: Annotated[Path | None, network_option(metavar="FILE", help="A checkpoint for the torch network.")] = None,
    key: CheckpointKey = None,
    pretrained: Pretrained = False,
    injections: Annotated[
        int | None, fault_option(min=1, metavar="N", help="Run only N injections, drawn at random with --seed.")
    ] = None,
    max_nonfinite: Annotated[
        float,
        outcome_option(
            metavar="PERCENT",
            help="Largest percentage of faulty inferences that may have NaN or Inf scores and differ.",
        ),
    ] = 1.0,
    trust_pickle: Annotated[
        bool, network_option("--trust-pickle", help="Load a pickled module, which can run any code.")
    ] = False,
    out: Annotated[
        Path | None,
        Out(metavar="RUN", help="The run directory of the ONNX Runtime campaign to write. Default: not kept."),
    ] = None,
    workers: Annotated[int | None, run_option(metavar="N", min=1, help="Worker processes, one thread each.")] = None,
    bit_order: BitOrderOption = "lsb",
) -> None:
    """Run clean and faulty inferences natively and in ONNX Runtime, and judge whether they agree."""
    from bitswap_onnx.experiments.crosscheck.run import crosscheck

    check_key(key, weights)
    makers = [_maker(text, weights, key, pretrained, trust_pickle) for text in native]
    with console.progress() as on_progress:
        verdicts = crosscheck(
            model,
            faults,
            natives=makers,
            run=out,
            settings=settings,
            injections=injections,
            max_nonfinite=max_nonfinite / 100,
            bit_order=bit_order,
            workers=workers,
            on_progress=on_progress,
            on_notes=console.print_notes_aside,
        )
    _print(verdicts)
    for verdict in verdicts:
        verdict.check()


def _maker(
    text: str, weights: Path | None, key: str | None, pretrained: bool, trust_pickle: bool
) -> "Callable[[Model], Native]":
    """Return a function that makes the native run named by ``text``; its files are read now, so that mistakes show early."""
    framework, _, source = text.partition(":")
    if framework == "torch" and source:
        return _torch(source, weights, key, pretrained, trust_pickle)
    if framework == "keras" and source:
        from bitswap_onnx.converters.keras_setup import load_keras_file
        from bitswap_onnx.converters.native import keras_native

        keras_model = load_keras_file(Path(source))
        return lambda model: keras_native(model, keras_model)
    if text == "tf":
        from bitswap_onnx.converters.native import tensorflow_native

        return tensorflow_native
    raise BitswapError(f"--native {text}: expected {_FORMS}")


def _torch(
    source: str, weights: Path | None, key: str | None, pretrained: bool, trust_pickle: bool
) -> "Callable[[Model], Native]":
    from bitswap_onnx.converters.native import torch_native
    from bitswap_onnx.converters.torch_source import load_network

    if source.startswith("zoo:"):
        if pretrained:
            raise BitswapError(
                f"--pretrained: expected torch:torchvision:NAME or torch:timm:NAME, found torch:{source}"
            )
        from bitswap_onnx.models import zoo

        name, _, dataset = source.removeprefix("zoo:").partition(":")
        module = zoo.build(name, dataset, weights, key=key, on_notes=console.print_notes)
    else:
        network = load_network(source, weights, key, pretrained=pretrained, trust_pickle=trust_pickle)
        console.print_notes(network.notes)
        module = network.module
    return lambda model: torch_native(module)


def _print(verdicts: list["Verdict"]) -> None:
    """Print one row per injection, with ONNX Runtime and each native run side by side, then the totals."""
    sides = ["ORT", *(verdict.native for verdict in verdicts)]
    columns = [f">{kind} {side}" for kind in ("masked", "critical") for side in sides]
    differences = [f">{what} {v.native}" for v in verdicts for what in ("score difference", "predictions")]
    result = console.table("ONNX Runtime against native runs", "Run", *differences, *columns)
    for rows in zip(*((verdict.clean, *verdict.injections) for verdict in verdicts), strict=True):
        agreements = [cell for row in rows for cell in (f"{row.relative:.1e}", _predictions(row))]
        counts = [
            str(side[kind]) for kind in ("masked", "critical") for side in (rows[0].runtime, *(r.native for r in rows))
        ]
        result.add_row(rows[0].id, *agreements, *counts)
    console.out.print(result)
    console.out.print(
        "score difference: the largest, as a part of an input's largest score; predictions: inferences whose top-1 class "
        "differs, near ties: within rounding; masked, critical: inferences, each run against its own clean scores"
    )
    for verdict in verdicts:
        _print_totals(verdict)


def _print_totals(verdict: "Verdict") -> None:
    inferences = sum(agreement.inputs for agreement in verdict.injections)
    masked = [_total(agreement.runtime["masked"] for agreement in verdict.injections)]
    masked += [_total(agreement.native["masked"] for agreement in verdict.injections)]
    nonfinite = sum(agreement.nonfinite for agreement in verdict.injections)
    differing = sum(agreement.nonfinite_differing for agreement in verdict.injections)
    cause = f" ({verdict.cause})" if differing or verdict.divergences else ""
    console.out.print(
        f"{verdict.native}: {amount(inferences, 'faulty inference')}; "
        f"clean scores differ by at most {verdict.clean.difference:.1e} in absolute terms; "
        f"different predictions: {verdict.unexplained} without explanation, "
        f"{sum(a.near_ties for a in verdict.injections)} in near ties; with NaN or Inf: {nonfinite}, of which "
        f"{differing} differ{cause}; "
        f"masked: ORT {masked[0]}, {verdict.native} {masked[1]} (rounding alone can change it)"
    )
    for divergence in verdict.divergences:
        console.out.print(f"  {verdict.native}, {divergence.text}", markup=False)


def _total(counts: Iterable[int | None]) -> int:
    return sum(count or 0 for count in counts)


def _predictions(row: "Agreement") -> str:
    parts = ["equal" if not row.differing else f"{row.differing} differ ({row.near_ties} near ties)"]
    if row.nonfinite:
        parts.append(f"{row.nonfinite_differing} of {row.nonfinite} nonfinite differ")
    return ", ".join(parts)
