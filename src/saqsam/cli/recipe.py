"""``saqsam recipe``: what recipes there are and everything one of them says."""

from __future__ import annotations

from typing import Annotated

import typer

from saqsam.cli.arguments import BitsOption, JsonOption, SetOption
from saqsam.cli.output import print_json, print_table
from saqsam.recipe import list_recipes, load_recipe

app = typer.Typer(help="List the shipped recipes, or show one in full.", no_args_is_help=False)


@app.callback(invoke_without_command=True)
def _before_the_verb(context: typer.Context) -> None:
    """List the shipped recipes, or show one in full."""
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())


@app.command("list")
def list_(json: JsonOption = False) -> None:
    """List the shipped recipes."""
    recipes = list_recipes()
    if json:
        print_json({"recipes": [{"name": r.name, "description": r.description} for r in recipes]})
        return
    print_table("", ["recipe", "what it does"], [[r.name, r.description] for r in recipes], right=2)


@app.command("show")
def show(
    name: Annotated[str, typer.Argument(help="A shipped recipe, name-wXaY, or a YAML file.")],
    bits: BitsOption = None,
    settings: SetOption = None,
    json: JsonOption = False,
) -> None:
    """Show one recipe with every key and its meaning; the output is itself a recipe file."""
    recipe = load_recipe(name, bits=bits, settings=settings or ())
    if json:
        print_json({"recipe": recipe.to_dict(), "recipe_hash": recipe.recipe_hash})
    else:
        typer.echo(recipe.to_yaml(), nl=False)
