"""The company's keys of images, for its publisher."""

from __future__ import annotations

import typer

from twofold.cli import out
from twofold.cli.session import admin

app = typer.Typer(no_args_is_help=True, help="Keys of images (for the publisher): rotate.")


@app.callback()
def noun() -> None:
    """With one command, Typer would drop the noun."""


@app.command()
def rotate(yes: out.Yes = False) -> None:
    """Give the server new keys for lists of images, after the old ones may have been copied. It takes root.pem."""
    from twofold.image.catalogue import Catalogue
    from twofold.platform.dirs import dirs
    from twofold.trust.publisher import publisher

    out.confirm(
        "Give the server new keys?",
        lost="what the server's old keys are worth: lists that they sign are believed no more.",
        safe="images, devices and workspaces; devices follow by themselves.",
        yes=yes,
    )
    with admin() as server:
        number = Catalogue(publisher(dirs().state / "publisher", make=False), server).rotate()
    out.say(f"The server has new keys; root number {number} names them.")
