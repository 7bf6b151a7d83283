"""The command line: one command for each experiment."""

import typer

from .dim import dim
from .gaussians import gaussians
from .mnist_halves import mnist_halves
from .moco import moco
from .three_gaussians import three_gaussians

app = typer.Typer(no_args_is_help=True, add_completion=False, help="Reference experiments on mutual information.")
app.command("gaussians")(gaussians)
app.command("mnist_halves")(mnist_halves)
app.command("three_gaussians")(three_gaussians)
app.command("dim")(dim)
app.command("moco")(moco)

if __name__ == "__main__":
    app()
