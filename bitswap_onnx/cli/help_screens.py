"""The layout of help screens: groups of options in the same order everywhere, and an example at the end."""

from typing import Any

import typer

from bitswap_onnx.cli.examples import EXAMPLES
from bitswap_onnx.cli.option_groups import GROUPS


def arrange(name: str, command: Any) -> Any:
    """Return a command, or a group of commands, whose help has the layout of all others."""
    for subname, subcommand in getattr(command, "commands", {}).items():
        arrange(f"{name} {subname}", subcommand)
    command.params.sort(key=_place)
    plain_flags(command.get_params(typer.Context(command)))
    if name in EXAMPLES:
        command.epilog = f"Example: bitswap-onnx {name} {EXAMPLES[name]}"
    return command


def plain_flags(parameters: list[Any]) -> list[Any]:
    """Return the parameters; flags among them show no type, as if a value followed, and need no check by pydantic."""
    for parameter in parameters:
        if getattr(parameter, "is_flag", False):
            parameter.metavar = ""
            parameter.default = parameter.default or False
    return parameters


def _place(parameter: Any) -> int:
    """Return the place of a parameter's group; arguments, which have none, stay in front."""
    group = getattr(parameter, "rich_help_panel", None)
    return GROUPS.index(group) if group in GROUPS else -1
