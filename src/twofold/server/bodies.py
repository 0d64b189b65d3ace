"""What requests may say, strictly: unknown fields, wrong types and overlong text are refused before anything is done."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from twofold.model.release import MAX_OTHERS

Name = Annotated[str, Field(min_length=1, max_length=40, examples=["work"])]
Text60 = Annotated[str, Field(min_length=1, max_length=60)]
Hex32 = Annotated[str, Field(pattern="^[0-9a-f]{64}$")]
Rank = Annotated[int, Field(ge=0, le=1000)]
Secret = Annotated[str, Field(max_length=256, repr=False)]


class Body(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, hide_input_in_errors=True)


class Login(Body):
    user: Name
    password: Secret


class NewUser(Body):
    name: Name
    password: Secret
    admin: bool = False


class Document(Body):
    """What a role says, base64; its signatures are checked before anything else of it is believed."""

    document: Annotated[str, Field(max_length=8 << 20)]


Arch = Annotated[str, Field(max_length=40, pattern="^[a-z0-9-]*$")]


class NewVariant(Body):
    """What one architecture gets: `index` is the sealed index (base64), `chunks` the ids and stored bytes of its chunks."""

    manifest: dict[str, Any]
    chunks: Annotated[dict[Hex32, Annotated[int, Field(gt=28, lt=1 << 20)]], Field(max_length=4 << 20)]
    index: str


class NewVersion(NewVariant):
    """What the target's path names, `others` for further architectures, and `targets`, the list that names them all (base64)."""

    others: Annotated[list[NewVariant], Field(max_length=MAX_OTHERS)] = []
    targets: Annotated[str, Field(max_length=8 << 20)]


class MoreVariants(Body):
    """Architectures that a version gets beside those that it has; `targets` is the list that names them all (base64)."""

    others: Annotated[list[NewVariant], Field(min_length=1, max_length=MAX_OTHERS)]
    targets: Annotated[str, Field(max_length=8 << 20)]


class Halt(Body):
    halted: bool


class Started(Body):
    """How a start of this version went on the device that says so."""

    image: Name
    version: Annotated[int, Field(ge=1, lt=1 << 31)]
    good: bool


class Ids(Body):
    ids: Annotated[list[Hex32], Field(max_length=8192)]


class FewIds(Body):
    ids: Annotated[list[Hex32], Field(min_length=1, max_length=256)]


class NewGroup(Body):
    name: Name


class NewGrant(Body):
    """To a user or to a group, one of them."""

    user: Annotated[str, Field(max_length=40)] = ""
    group: Annotated[str, Field(max_length=40)] = ""
    image: Name
    workspace: Name
    title: Text60
    colour: Name
    policy: dict[str, Any]
    pool: Annotated[str, Field(max_length=40)] = ""
    ends: Annotated[int, Field(ge=0, lt=1 << 40)] = 0
    channel: Name = "stable"
    rank: Rank = 0


class ChangedGrant(Body):
    """What is left out stays as it is."""

    channel: Name | None = None
    rank: Rank | None = None


class NewInvitation(Body):
    """`kind` is `node` for a machine in the data centre that holds workspaces for their users."""

    user: Name
    kind: Literal["device", "node"] = "device"
    hours: Annotated[int, Field(ge=1, le=24 * 14)] = 24


class Enrol(Body):
    code: Annotated[str, Field(pattern="^[A-Z2-7]{26}$", repr=False)]
    name: Text60
    public: Hex32
    wrap_public: Hex32


class Empty(Body):
    pass


class Signed(Body):
    """A signed document; its signature is checked before its payload is read."""

    payload: str
    signatures: Annotated[list[dict[str, str]], Field(min_length=1, max_length=8)]


class Speaks(Body):
    """`speaks` names the extensions that the device knows; without it, it gets what the first protocol had."""

    speaks: Annotated[list[Name], Field(max_length=16)] = []


class CheckOut(Speaks):
    """`request`: what the device waits for, as an earlier answer said. `arch`: what its machines are, where it says so."""

    workspace: Name
    arch: Arch = ""
    request: Annotated[int, Field(ge=0, lt=1 << 53)] = 0


class Vouch(Body):
    vouch: Hex32


class SeatFor(Body):
    command: Annotated[int, Field(ge=1, lt=1 << 53)]


Token = Annotated[int, Field(ge=1, lt=1 << 53)]


class Leave(Body):
    """`token` and `generation` are what a device of the extension says; without them the lease is given back as it is."""

    workspace: Name
    token: Token | None = None
    generation: Annotated[str, Field(pattern="^([0-9a-f]{64})?$")] | None = None


class Discard(Body):
    workspace: Name
    token: Token


class Transfer(Body):
    verb: Literal["check-out", "replicate", "check-in"]
    state: Literal["running", "paused", "waiting"]
    done: Annotated[int, Field(ge=0, lt=1 << 53)] = 0
    total: Annotated[int, Field(ge=0, lt=1 << 53)] = 0


class Told(Body):
    workspace: Name
    token: Token
    run: Annotated[str, Field(max_length=20)] = ""
    verified: Annotated[int, Field(ge=0, lt=1 << 53)] = 0
    transfer: Transfer | None = None
    version: Annotated[int, Field(ge=0, lt=1 << 31)] = 0
    lease: dict[str, Any] | None = None


class Receipt(Body):
    command: Annotated[int, Field(ge=1, lt=1 << 53)]
    result: Literal["done", "failed"]
    detail: Annotated[str, Field(max_length=2000)] = ""


class Heartbeat(Speaks):
    workspaces: Annotated[list[Told], Field(max_length=64)] = []
    receipts: Annotated[list[Receipt], Field(max_length=64)] = []


class Wait(Body):
    seconds: Annotated[int, Field(ge=0, le=50)]
    since: Annotated[int, Field(ge=0, lt=1 << 40)] = 0


class File(Body):
    digest: Hex32
    size: Annotated[int, Field(ge=1, lt=1 << 40)]


class Files(Body):
    workspace: Name
    token: Token
    objects: Annotated[list[File], Field(max_length=4096)]
    lease: dict[str, Any] | None = None


class Commit(Body):
    workspace: Name
    token: Token
    head: Annotated[str, Field(pattern="^([0-9a-f]{64})?$")]
    generation: Signed
    keys: dict[str, Any] | None = None
    lease: dict[str, Any] | None = None


class Wrap(Body):
    epoch: Annotated[int, Field(ge=1, lt=1 << 32)]
    kind: Annotated[Literal["device", "user", "company"], Field(alias="for")]
    id: Hex32
    sealed: Annotated[str, Field(pattern="^[0-9a-f]{2,1024}$")]


class Wraps(Body):
    wraps: Annotated[list[Wrap], Field(min_length=1, max_length=64)]


class DeviceWraps(Wraps):
    workspace: Name


class Break(Body):
    loss: Hex32
    why: Annotated[str, Field(max_length=100)] = ""


class Restore(Body):
    generation: Hex32
    head: Annotated[str, Field(pattern="^([0-9a-f]{64})?$")]


class Ask(Body):
    """`version` is where an upgrade goes to; 0: what its channel has."""

    verb: Literal["lock", "unlock", "wipe", "replicate", "discard", "replicate-discard", "reset", "upgrade"]
    device: Annotated[str, Field(pattern="^([0-9a-f]{64})?$")] = ""
    version: Annotated[int, Field(ge=0, lt=1 << 31)] = 0


class Said(Body):
    rules: dict[str, Any]
