"""``saqsam recipe``: what recipes there are and everything one of them says."""

from __future__ import annotations

import json as jsonlib
from pathlib import Path
from typing import Annotated

import typer

from saqsam.cli.arguments import BitsOption, JsonOption, OnlyOption, SetOption
from saqsam.cli.output import print_json, print_lines, print_table
from saqsam.recipe import Recipe, import_published, list_recipes, load_recipe
from saqsam.recipe.compare import differences
from saqsam.recipe.only import only
from saqsam.visible import visible

app = typer.Typer(help="List recipes, show one in full, or import a published one.", no_args_is_help=False)


@app.callback(invoke_without_command=True)
def _before_the_verb(context: typer.Context) -> None:
    """List the shipped recipes, show one in full, or import a published one."""
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
    name: Annotated[str, typer.Argument(metavar="NAME", help="A shipped recipe, name-wXaY, or a YAML file.")],
    bits: BitsOption = None,
    settings: SetOption = None,
    half: OnlyOption = None,
    diff: Annotated[
        str | None,
        typer.Option("--diff", help="Show only keys in which this other recipe differs.", metavar="OTHER"),
    ] = None,
    json: JsonOption = False,
) -> None:
    """Show one recipe with every key and its meaning; the output is itself a recipe file."""
    recipe = load_recipe(name, bits=bits, settings=settings or ())
    if half is not None:
        recipe = only(recipe, half)
    if diff is not None:
        _show_differences((name, recipe), (diff, load_recipe(diff)), json)
        return
    if json:
        print_json({"recipe": recipe.to_dict(), "recipe_hash": recipe.recipe_hash})
    else:
        typer.echo(recipe.to_yaml(), nl=False)


def _show_differences(one: tuple[str, Recipe], other: tuple[str, Recipe], json: bool) -> None:
    """Two recipes under the names that they were asked for by: their own may be the same."""
    names = [one[0], other[0]]
    differing = differences(one[1], other[1])
    if json:
        print_json(
            {
                "recipes": names,
                "differences": [{"key": each.key, "values": [each.one, each.other]} for each in differing],
            }
        )
        return
    if not differing:
        print_lines([f"{names[0]} and {names[1]} differ in nothing"])
        return
    rows = [[each.key, _short(each.one), _short(each.other)] for each in differing]
    print_table("", ["key", *names], rows, right=3)


def _short(value: object) -> str:
    """A value as a recipe writes it; a long list by its ends."""
    if isinstance(value, list) and len(value) > 8:
        return f"[{value[0]}, ..., {value[-1]}] ({len(value)} values)"
    return "–" if value is None else jsonlib.dumps(value)


@app.command("import")
def import_(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="exp/*.yaml of PTQ4SAM's or SAQ-SAM's code.")],
    ffc: Annotated[bool, typer.Option("--ffc/--no-ffc", help="Whether --FFC was given.")] = True,
    recon_encoder: Annotated[
        str | None, typer.Option("--recon-encoder", help="Its value there.", metavar="CAMS|ori|no")
    ] = None,
    recon_decoder: Annotated[
        str | None, typer.Option("--recon-decoder", help="Its value there.", metavar="CLM|ori|no")
    ] = None,
    json: JsonOption = False,
) -> None:
    """Turn a published configuration into a recipe file on stdout; what differs is noted on stderr."""
    recipe, notes = import_published(file, ffc=ffc, encoder=recon_encoder, decoder=recon_decoder)
    if json:
        print_json({"recipe": recipe.to_dict(), "recipe_hash": recipe.recipe_hash, "notes": notes})
        return
    for note in notes:
        typer.echo(visible(f"note: {note}"), err=True)
    typer.echo(recipe.to_yaml(), nl=False)
