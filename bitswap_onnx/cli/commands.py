"""The commands by name and help; the module of each, with the libraries that it needs, is loaded when it is chosen."""

from importlib import import_module
from typing import Any

import typer
from typer.core import TyperGroup

from bitswap_onnx.cli.help_screens import arrange, plain_flags
from bitswap_onnx.cli.interrupts import ending_at_once

#: Command, which is also the name of its module here → its line in the help. Its own help begins with the same line.
COMMANDS = {
    "inspect": "List the targets of faults: layer, parameter, role, shape, dtype and bits; with --neurons, the neurons of "
    "layers.",
    "inject": "Run every injection of a fault list, or draw faults until a share is known (--until); write a run directory.",
    "evaluate": "Run the clean model over a dataset and print its top-1 and top-5 accuracy.",
    "rewrite": "Write a valid standalone model that differs from MODEL in exactly the bits of one injection.",
    "estimate": "Estimate rates with confidence intervals; the fault is the sampling unit, not the inference.",
    "neurons": "Flip one random bit of one random neuron per layer and input, and count misclassifications; --seed seeds "
    "the draws.",
    "rank": "Inject faults layer by layer, then score rankings of the layers: which layers to monitor first.",
    "sweep": "Flip random bits at several bit error rates and measure the accuracy; --seed also seeds the flips.",
    "compare": "Compare the outcomes of the same faults in two models, e.g. of PyTorch and Keras; --seed also seeds the "
    "bootstrap.",
    "crosscheck": "Run clean and faulty inferences natively and in ONNX Runtime, and judge whether they agree.",
    "export": "Convert framework models to ONNX, and ONNX to Keras; every parameter is compared bit for bit.",
    "faults": "Generate, check, describe and convert fault lists.",
    "results": "Export the results of a finished campaign.",
}

#: Commands that have been loaded, by name.
LOADED: dict[str, Any] = {}

#: Options that a user may expect → those that exist.
_RELATIVES = {"--output": ("--out", "--scores"), "--csv": ("--out",), "--save-outputs": ("--out",)}


class LazyGroup(TyperGroup):
    """A group whose commands have only a name and a help line until one is chosen, which is then loaded."""

    def resolve_command(self, ctx: Any, args: list[str]) -> tuple[str | None, Any, list[str]]:
        """Return the name of the command, the command itself and its arguments."""
        name, command, rest = super().resolve_command(ctx, args)
        with ending_at_once():
            return name, load_command(name) if name else command, rest

    def get_params(self, ctx: Any) -> list[Any]:
        """Return the options, with flags as those of all commands."""
        return plain_flags(super().get_params(ctx))

    def invoke(self, ctx: Any) -> Any:
        """Run a command; for an option that has another name here, the message suggests that name."""
        try:
            return super().invoke(ctx)
        except Exception as error:
            _suggest(error)
            raise


def add_commands(app: typer.Typer) -> None:
    """Add the name and the help line of every command to an app, which must be a `LazyGroup`."""
    for name, line in COMMANDS.items():
        app.command(name, help=line)(_nothing)


def load_command(name: str) -> Any:
    """Import the module of a command; return the command, or the group of commands, that it defines."""
    if name in LOADED:
        return LOADED[name]
    module = import_module(f"bitswap_onnx.cli.{name}")
    app = typer.Typer()
    if hasattr(module, "app"):
        app.add_typer(module.app, name=name)
    else:
        app.command(name)(module.command)
    LOADED[name] = arrange(name, typer.main.get_group(app).commands[name])
    return LOADED[name]


def _suggest(error: Any) -> None:
    if (asked := getattr(error, "option_name", None)) in _RELATIVES:
        known = {name for parameter in error.ctx.command.params for name in parameter.opts}
        error.possibilities = [name for name in _RELATIVES[asked] if name in known]


def _nothing() -> None:
    """Stand in for a command that is not loaded."""
