"""Images: build, import, publish, list, info. Building and importing need no server."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from twofold.cli import out
from twofold.cli.out import Form
from twofold.cli.session import admin

if TYPE_CHECKING:
    from twofold.image.build import Built
    from twofold.model.image import Arch, ImageVersion

app = typer.Typer(no_args_is_help=True, help="Images (for administrators): build, import, publish, list, info.")
Arch_ = Annotated[str, typer.Option("--arch", help="amd64 or arm64.")]


@app.command()
def build(
    recipe: Annotated[Path, typer.Argument(help="A recipe's folder, such as recipes/business.")],
    arch: Arch_ = "amd64",
    output: out.Output = Form.TABLE,
) -> None:
    """Build an image from a recipe, or find it built already."""
    from twofold.image.build import build as make

    with out.Bar() as bar:
        built = make(recipe, _arch(arch), _cache(), bar)
    _built(built, output)


@app.command("import")
def import_(
    file: Annotated[Path, typer.Argument(help="A disk: qcow2, raw, vmdk, vhdx or OVA.")],
    name: Annotated[str, typer.Option("--name", help="The image's name; by default the file's.")] = "",
    output: out.Output = Form.TABLE,
) -> None:
    """Make an image of any disk. It boots through UEFI or BIOS and needs no guest agent."""
    from twofold.image.import_ import import_disk

    with out.Bar() as bar:
        built = import_disk(file, name or _name(file), _cache(), bar)
    _built(built, output)


@app.command()
def publish(
    folder: Annotated[Path, typer.Argument(help="What `image build` or `image import` printed.")],
    first_boot: Annotated[
        Path | None,
        typer.Option("--first-boot", metavar="FILE", help="What `disk touched` printed: devices fetch this first."),
    ] = None,
    output: out.Output = Form.TABLE,
) -> None:
    """Cut, seal, sign and upload an image; what the server has already is not sent again."""
    from twofold.image.build import load
    from twofold.platform.dirs import dirs
    from twofold.trust.publisher import publisher

    maker, noted = publisher(dirs().state / "publisher"), None
    if first_boot is not None:
        noted = _ranges(first_boot)
    with admin() as server, out.Bar() as bar:
        server.add_publisher(maker)
        done = server.publish_image(load(folder), maker, bar, first_boot=noted)
    facts = {"image": done.image, "version": done.version, "size": done.size, "stored": done.stored, "sent": done.sent}
    if output is Form.JSON:
        out.document("published", facts | {"fresh": done.fresh})
    elif not done.fresh:
        out.say(f"{done.image} version {done.version} is this very image; nothing was sent.")
    else:
        out.say(
            f"{done.image} version {done.version}: {out.size(done.size)}, sealed {out.size(done.stored)}, "
            f"sent {out.size(done.sent)}."
        )


@app.command("list")
def list_(output: out.Output = Form.TABLE) -> None:
    """Published images."""
    with admin() as server:
        found = [vars(image) for image in server.list_images()]
    for each in found:
        each["sealed"] = out.size(each["bytes"])
    out.rows(output, "images", ["name", "version", "sealed"], found, "No image is published yet.")


@app.command()
def info(
    image: Annotated[str, typer.Argument(help="A published image's name.")], output: out.Output = Form.TABLE
) -> None:
    """The newest version of a published image."""
    from twofold.model.errors import NotFoundError
    from twofold.model.image import ImageVersion

    with admin() as server:
        found = server.newest(image)
    if not found.get("manifest"):
        raise NotFoundError(f"There is no image {image!r}.", next="See them:  twofold image list")
    manifest = ImageVersion.from_wire(found["manifest"])
    if output is Form.JSON:
        out.document("image", manifest.to_wire() | {"version": found["version"]})
    else:
        out.fields(output, "image", _facts(manifest) | {"version": found["version"]})


def _ranges(file: Path) -> object:
    from twofold.model.errors import BadInputError

    try:
        return json.loads(file.read_bytes())["ranges"]
    except (OSError, ValueError, KeyError, TypeError) as off:
        raise BadInputError(
            f"{file} is not what `disk touched` prints.",
            next="twofold disk touched WORKSPACE >FILE, of a start just made",
        ) from off


def _built(built: Built, output: Form) -> None:
    facts = {"folder": str(built.folder)} | _facts(built.manifest)
    if output is Form.JSON:
        out.document("build", {"folder": str(built.folder), "manifest": built.manifest.to_wire()})
    else:
        out.fields(output, "build", facts)


def _facts(manifest: ImageVersion) -> dict[str, str]:
    return {
        "image": manifest.image,
        "architecture": str(manifest.arch),
        "firmware": str(manifest.firmware),
        "system disk": str(manifest.mode),
        "size": out.size(sum(part.size for part in manifest.parts)),
        "guest agent": "yes" if manifest.has_agent else "no",
        "applications": ", ".join(app.name for app in manifest.apps) or "not known",
    }


def _cache() -> Path:
    """Where builds are kept; TWOFOLD_BUILDS names a folder that several users of one machine share."""
    from twofold.platform.dirs import dirs

    return Path(os.environ.get("TWOFOLD_BUILDS") or dirs().cache)


def _name(file: Path) -> str:
    kept = "".join(letter if letter.isalnum() and letter.isascii() else "-" for letter in file.stem.lower())
    return "-".join(part for part in kept.split("-") if part)[:40].strip("-") or "disk"


def _arch(text: str) -> Arch:
    from twofold.model.errors import UsageError
    from twofold.model.image import Arch

    try:
        return Arch(text)
    except ValueError as unknown:
        raise UsageError(f"{text!r} is no architecture we know.", next="Use amd64 or arm64.") from unknown
