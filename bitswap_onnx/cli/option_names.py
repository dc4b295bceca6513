"""The library names parameters (`` `batch_size` ``); the command line prints their options (``--batch-size``)."""

import functools
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator
from typing import Any

from bitswap_onnx.cli.commands import COMMANDS, LOADED, load_command

#: Parameters of the library whose option or argument has another name.
_OTHER_NAMES = {"run": "--out", "folder": "--out", "goal": "--until", "where": "--site", "numbers": "--layer-num"}

_PARAMETER = re.compile(r"(?<!`)`([A-Za-z_][A-Za-z0-9_]*)`(?!`)")
_PLAIN = re.compile(r"--[a-z-]+|[A-Z_]+")


def in_options(text: str) -> str:
    """Return ``text`` with every parameter in backticks replaced by its option; other text in backticks stays."""
    return _PARAMETER.sub(lambda match: _name(match[1]) or match[0], text)


def _name(parameter: str) -> str | None:
    """Return the name in the command that runs; only for a parameter that it does not have, load all others."""
    return _names(LOADED.values()).get(parameter) or names_on_the_command_line().get(parameter)


@functools.cache
def names_on_the_command_line() -> dict[str, str]:
    """Return parameter → option (``--batch-size``), or argument (``MODEL``) where some command takes it as that.

    A parameter without one plain name, such as ``source``, is left out.
    """
    return _names([load_command(name) for name in COMMANDS])


def _names(commands: Iterable[Any]) -> dict[str, str]:
    options: dict[str, set[str]] = defaultdict(set)
    arguments: dict[str, set[str]] = defaultdict(set)
    for parameter, name in _parameters([*commands]):
        (options if name.startswith("--") else arguments)[parameter].add(name)
    names = {parameter: list(filter(_PLAIN.fullmatch, found)) for parameter, found in (options | arguments).items()}
    return {parameter: plain[0] for parameter, plain in names.items() if len(plain) == 1} | _OTHER_NAMES


def _parameters(commands: list[Any]) -> Iterator[tuple[str, str]]:
    """Yield every parameter of the commands with its longest option, or its metavar if it is an argument."""
    while commands:
        command = commands.pop()
        commands += getattr(command, "commands", {}).values()
        for parameter in command.params:
            is_option = parameter.param_type_name == "option"
            yield parameter.name or "", max(parameter.opts, key=len) if is_option else str(parameter.metavar)
