"""``evaluate``: the clean run."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from bitswap_onnx.cli import console
from bitswap_onnx.cli.option_types import Json, ModelPath, Out
from bitswap_onnx.cli.options import with_shared
from bitswap_onnx.cli.view import print_json
from bitswap_onnx.files import check_output, replacing

if TYPE_CHECKING:
    from bitswap_onnx.campaign.settings import Settings


@with_shared
def command(
    model: ModelPath,
    settings: "Settings",
    out: Annotated[
        Path | None, Out(metavar="FILE.npy", help="The file for the scores; an old one is replaced.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Run the clean model over a dataset and print its top-1 and top-5 accuracy."""
    import numpy as np

    from bitswap_onnx.campaign.setup import prepare
    from bitswap_onnx.outcome import judge

    if out is not None:
        check_output(
            out,
            [
                model,
                *(Path(path) for path in (settings.data, settings.labels) if path is not None),
                model.with_suffix(".npz"),
            ],
        )
    setup = prepare(model, settings)
    clean = setup.clean_run()
    golden, providers = clean.golden, clean.providers
    counts = judge(golden, golden.scores).counts
    if out is not None:
        with replacing(out, "wb") as file:
            np.save(file, golden.scores.astype(np.float32))
    result = {
        "model": model.name,
        "inputs": len(golden.scores),
        "top_1_correct": counts["top_1_correct"],
        "top_5_correct": counts["top_5_correct"],
        "data": setup.dataset.source,
        "numerics": setup.numerics.as_dict(),
        "providers": providers,
        "warnings": setup.warnings,
    }
    if as_json:
        print_json(result)
        return
    console.print_notes((*setup.notes, *setup.warnings), "")
    inputs = len(golden.scores)
    missing = (
        "not counted: the model is not a classifier" if not setup.criterion.needs_classes else "unknown: no labels"
    )
    for name, count in (("top-1", counts["top_1_correct"]), ("top-5", counts["top_5_correct"])):
        console.out.print(
            f"{name}: {missing if count is None else f'{count} of {inputs} ({console.share(count, inputs)})'}"
        )
