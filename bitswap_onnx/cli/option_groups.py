"""The groups of options in the help of every command: an option is declared with the function of its group."""

from functools import partial

import typer

#: The groups in the order of every help screen.
GROUPS = [
    "Faults",
    "Precision",
    "Rankings",
    "Comparison",
    "Network",
    "Data",
    "Outcomes",
    "Numerics",
    "Estimate",
    "Failures in time (FIT)",
    "Run",
    "Output",
]

#: What is hit, and how the faults are drawn.
fault_option = partial(typer.Option, rich_help_panel="Faults")
#: How many faults a fault list needs.
precision_option = partial(typer.Option, rich_help_panel="Precision")
#: The rankings of layers that are scored.
ranking_option = partial(typer.Option, rich_help_panel="Rankings")
#: The two sides of a comparison, and when they count as equal.
comparison_option = partial(typer.Option, rich_help_panel="Comparison")
#: The network of a framework.
network_option = partial(typer.Option, rich_help_panel="Network")
#: The inputs, and how they are prepared.
data_option = partial(typer.Option, rich_help_panel="Data")
#: What counts as an outcome.
outcome_option = partial(typer.Option, rich_help_panel="Outcomes")
#: How the model computes; this can change results.
numerics_option = partial(typer.Option, rich_help_panel="Numerics")
#: The rates that are estimated.
estimate_option = partial(typer.Option, rich_help_panel="Estimate")
#: The memory of a network in operation.
fit_option = partial(typer.Option, rich_help_panel="Failures in time (FIT)")
#: How the work is done; none of these but the seed changes a result.
run_option = partial(typer.Option, rich_help_panel="Run")
#: What is written and printed.
output_option = partial(typer.Option, rich_help_panel="Output")
