"""``evaluate``: the clean run."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from bitswap_onnx.cli import console
from bitswap_onnx.cli.options import Json, ModelPath, with_shared
from bitswap_onnx.files import check_output, replacing

if TYPE_CHECKING:
    from bitswap_onnx.campaign.settings import Settings


@with_shared
def command(
    model: ModelPath,
    settings: "Settings",
    save_outputs: Annotated[
        Path | None, typer.Option(metavar="FILE.npy", help="Write the scores to this file.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Run the clean model over a dataset and print its top-1 and top-5 accuracy."""
    import numpy as np

    from bitswap_onnx.campaign.setup import prepare
    from bitswap_onnx.outcome import judge

    if save_outputs is not None:
        check_output(
            save_outputs,
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
    if save_outputs is not None:
        with replacing(save_outputs, "wb") as file:
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
        typer.echo(json.dumps(result, indent=2))
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
