"""`studio align`: train an adapter that moves a base's pictures to a reward."""

import typer

import trainers
from ui.cli.training.distill import add_commands
from ui.cli.training.train import KindFromRecipe

app = typer.Typer(
    cls=KindFromRecipe,
    name="align",
    help="Train an adapter that moves a base's pictures to a reward, without example pictures.",
    epilog="Example: studio align palette --colours navy --colours white --out navy.safetensors",
    no_args_is_help=True,
)
add_commands(app, trainers.reward_kinds(), example="studio align {} --out a.safetensors")
