"""Images: build, import, publish, and which version is for whom. Building and importing need no server."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from twofold.cli import out
from twofold.cli.out import Form
from twofold.cli.session import admin

if TYPE_CHECKING:
    from twofold.image.build import Built
    from twofold.image.catalogue import Catalogue
    from twofold.model.image import Arch, ImageVersion
    from twofold.server.client import Admin
    from twofold.trust.publisher import Publisher

app = typer.Typer(no_args_is_help=True, help="Images (for administrators): make and publish them, say who runs which.")
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
    folders: Annotated[
        list[Path],
        typer.Argument(
            metavar="FOLDER...", help="What `image build` or `image import` printed; one for each architecture."
        ),
    ],
    first_boot: Annotated[
        Path | None,
        typer.Option("--first-boot", metavar="FILE", help="What `disk touched` printed: devices fetch this first."),
    ] = None,
    share: Annotated[int, typer.Option("--share", min=0, max=100, help="Percent of the devices; 0: none yet.")] = 100,
    add_to: Annotated[
        int, typer.Option("--add-to", metavar="VERSION", help="Add an architecture to a version that nobody runs yet.")
    ] = 0,
    output: out.Output = Form.TABLE,
) -> None:
    """Cut, seal, sign and upload an image; what the server has already is not sent again."""
    from twofold.image.build import load
    from twofold.model.errors import UsageError

    if len(folders) > 1 and (first_boot or add_to):
        raise UsageError(
            "--first-boot and --add-to are for one build.",
            next="Each build keeps the record of its own start beside it.",
        )
    maker, builds = _publisher(make=True), [load(folder) for folder in folders]
    noted = [built.first_boot if first_boot is None else _ranges(first_boot) for built in builds]
    with admin() as server, out.Bar() as bar:
        server.add_publisher(maker)
        if add_to:
            done = server.extend_image(builds[0], add_to, maker, bar, first_boot=noted[0])
        else:
            also = list(zip(builds[1:], noted[1:], strict=True))
            done = server.publish_image(builds[0], maker, bar, share, first_boot=noted[0], also=also)
        missed = _missed(server, done.image, done.version)
    facts = {"image": done.image, "version": done.version, "size": done.size, "stored": done.stored, "sent": done.sent}
    if output is not Form.TABLE:
        out.document("published", facts | {"fresh": done.fresh})
    elif not done.fresh:
        out.say(f"{done.image} version {done.version} is this very image; nothing was sent.")
    else:
        out.say(
            f"{done.image} version {done.version}: {out.size(done.size)}, sealed {out.size(done.stored)}, "
            f"sent {out.size(done.sent)}."
        )
    if missed:
        out.note(f"It has nothing for {missed}, which the version before had: such devices cannot check it out.")


@app.command("list")
def list_(output: out.Output = Form.TABLE) -> None:
    """Published images."""
    with admin() as server:
        found = [vars(image) for image in server.list_images()]
    for each in found:
        each["sealed"] = out.size(each["bytes"])
        each["machines"] = ", ".join(each["architectures"])
    out.rows(output, "images", ["name", "version", "machines", "sealed"], found, "No image is published yet.")


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
    manifest, archs = ImageVersion.from_wire(found["manifest"]), sorted(found["manifests"])
    if output is not Form.TABLE:
        out.document("image", manifest.to_wire() | {"version": found["version"], "architectures": archs})
    else:
        facts = _facts(manifest) | {"version": found["version"], "architecture": ", ".join(archs)}
        out.fields(output, "image", facts)


def _missed(server: Admin, image: str, version: int) -> str:
    """The architectures that the version before was built for, and this one was not."""
    archs = {row["version"]: set(row["architectures"]) for row in server.list_versions(image)}
    return " and ".join(sorted(archs.get(version - 1, set()) - archs.get(version, set())))


def _ranges(file: Path) -> object:
    from twofold.model.errors import BadInputError

    try:
        return json.loads(file.read_bytes())["ranges"]
    except (OSError, ValueError, KeyError, TypeError) as off:
        raise BadInputError(
            f"{file} is not what `disk touched` prints.",
            next="twofold disk touched WORKSPACE >FILE, of a start just made",
        ) from off


@app.command()
def versions(
    image: Annotated[str, typer.Argument(help="A published image's name.")], output: out.Output = Form.TABLE
) -> None:
    """An image's versions: who runs which, and how their starts went."""
    with admin() as server:
        found = server.list_versions(image)
    for each in found:
        each["sealed"] = out.size(each["bytes"])
        shares = [f"{name} {share} %" for name, share in sorted(each["channels"].items())]
        state = f"halted: {each['why']}" if each["halted"] else "retired" if each["retired"] else "not given out"
        each["for"] = ", ".join(shares) + (f" ({state})" if each["halted"] else "") if shares else state
        each["machines"] = ", ".join(each["architectures"])
    out.rows(
        output, "versions", ["version", "for", "machines", "started", "failed", "sealed"], found, "No version yet."
    )


Image_ = Annotated[str, typer.Argument(help="A published image's name.")]
Version_ = Annotated[int, typer.Argument(min=1, help="A version, as `image versions` shows it.")]
Channel_ = Annotated[str, typer.Option("--channel", help="Which devices: those of grants that follow it.")]


@app.command()
def promote(image: Image_, version: Version_, channel: Channel_ = "stable") -> None:
    """Let every device of a channel run this version; an older one too, which goes back."""
    _catalogue(lambda catalogue: catalogue.promote(image, version, channel))
    out.say(f"{image} version {version} is for every device of channel {channel}.")
    out.note("New check-outs take it. What is out already goes to it with:  twofold workspace upgrade WORKSPACE")


@app.command()
def rollout(
    image: Image_,
    version: Version_,
    share: Annotated[int, typer.Option("--share", min=0, max=100, help="Percent of the devices.")] = 0,
    halt: Annotated[bool, typer.Option("--halt", help="Nobody else begins with this version.")] = False,
    resume: Annotated[bool, typer.Option("--resume", help="Let it go on after a halt.")] = False,
    channel: Channel_ = "stable",
) -> None:
    """Let a share of the devices run this version; it halts by itself when starts fail."""
    from twofold.model.errors import UsageError

    if [bool(share), halt, resume].count(True) != 1:
        raise UsageError(
            "A roll-out is given one of --share, --halt and --resume.",
            next=f"For example:  twofold image rollout {image} {version} --share 10",
        )
    if share:
        _catalogue(lambda catalogue: catalogue.promote(image, version, channel, share))
        out.say(f"{image} version {version} is for {share} % of the devices of channel {channel}.")
        return
    with admin() as server:
        server.halt(image, version, halted=halt)
    out.say(f"The roll-out of {image} version {version} {'is halted' if halt else 'goes on'}.")
    if halt:
        out.note("Devices that have it keep it; to take it back:  twofold image promote IMAGE OLDER-VERSION")


@app.command()
def close(
    image: Image_, channel: Annotated[str, typer.Argument(help="A channel, as `image versions` shows it; not stable.")]
) -> None:
    """Have nothing of an image on a channel any more: whoever follows it gets what stable has."""
    _catalogue(lambda catalogue: catalogue.close(image, channel))
    out.say(f"Channel {channel} has no version of {image}; stable's stands in.")


@app.command()
def retire(image: Image_, version: Version_, yes: out.Yes = False) -> None:
    """Give a version out no more: no device may fetch it again."""
    out.confirm(
        f"Retire {image} version {version}?",
        lost="the way to fetch or repair this version.",
        safe="workspaces that stand on it go on with what is on their device.",
        yes=yes,
    )
    _catalogue(lambda catalogue: catalogue.retire(image, version))
    out.say(f"{image} version {version} is retired.")


@app.command()
def export(
    image: Image_,
    to: Annotated[Path, typer.Option("--to", metavar="DIR", help="A folder, such as a stick's.")],
    version: Annotated[int, typer.Option("--version", min=0, help="By default the newest.")] = 0,
    arch: Annotated[str, typer.Option("--arch", help="amd64 or arm64; by default all that it has.")] = "",
    output: out.Output = Form.TABLE,
) -> None:
    """Write a version into a folder, sealed, for check-outs without its download."""
    from twofold.image.catalogue import Catalogue
    from twofold.image.export import export as write

    maker = _publisher()
    with admin() as server, out.Bar() as bar:
        number = version or int(server.newest(image)["version"])
        kind = str(_arch(arch)) if arch else ""
        done = write(maker, Catalogue(maker, server), server, image, number, to, bar, kind)
    if output is not Form.TABLE:
        out.document("export", {"image": image, "version": number, "bytes": done.wanted, "received": done.sent})
    else:
        out.say(f"{image} version {number}: {out.size(done.wanted)} in {to}, {out.size(done.sent)} of it new.")
        out.note(f"On the device:  twofold checkout WORKSPACE --from {to}")


def _catalogue(change: Callable[[Catalogue], None]) -> None:
    from twofold.image.catalogue import Catalogue

    with admin() as server:
        change(Catalogue(_publisher(), server))


def _publisher(*, make: bool = False) -> Publisher:
    from twofold.platform.dirs import dirs
    from twofold.trust.publisher import publisher

    return publisher(dirs().state / "publisher", make=make)


def _built(built: Built, output: Form) -> None:
    facts = {"folder": str(built.folder)} | _facts(built.manifest)
    if output is not Form.TABLE:
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
