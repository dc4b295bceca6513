"""The layout of help screens: groups of options in the same order everywhere, and an example at the end."""

from typing import Any

from bitswap_onnx.cli.examples import EXAMPLES
from bitswap_onnx.cli.option_groups import GROUPS


def arrange(name: str, command: Any) -> Any:
    """Return a command, or a group of commands, whose help has the layout of all others."""
    for subname, subcommand in getattr(command, "commands", {}).items():
        arrange(f"{name} {subname}", subcommand)
    command.params.sort(key=_place)
    for parameter in command.params:
        if getattr(parameter, "is_flag", False):
            parameter.metavar = ""  # else <bool>, as if a value followed
    if name in EXAMPLES:
        command.epilog = f"Example: bitswap-onnx {name} {EXAMPLES[name]}"
    return command


def _place(parameter: Any) -> int:
    """Return the place of a parameter's group; arguments, which have none, stay in front."""
    group = getattr(parameter, "rich_help_panel", None)
    return GROUPS.index(group) if group in GROUPS else -1
