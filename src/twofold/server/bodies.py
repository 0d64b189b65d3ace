"""What requests may say, strictly: unknown fields, wrong types and overlong text are refused before anything is done."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

Name = Annotated[str, Field(min_length=1, max_length=40, examples=["work"])]
Text60 = Annotated[str, Field(min_length=1, max_length=60)]
Hex32 = Annotated[str, Field(pattern="^[0-9a-f]{64}$")]
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


class NewPublisher(Body):
    public: Hex32


class Ids(Body):
    ids: Annotated[list[Hex32], Field(max_length=8192)]


class FewIds(Body):
    ids: Annotated[list[Hex32], Field(min_length=1, max_length=256)]


class Signed(Body):
    """A signed document; its signature is checked before its payload is read."""

    payload: str
    signatures: Annotated[list[dict[str, str]], Field(min_length=1, max_length=8)]


class NewGrant(Body):
    user: Name
    image: Name
    workspace: Name
    title: Text60
    colour: Name
    policy: dict[str, Any]
    ends: Annotated[int, Field(ge=0, lt=1 << 40)] = 0


class NewInvitation(Body):
    user: Name
    hours: Annotated[int, Field(ge=1, le=24 * 14)] = 24


class Enrol(Body):
    code: Annotated[str, Field(pattern="^[A-Z2-7]{26}$", repr=False)]
    name: Text60
    public: Hex32
    wrap_public: Hex32


class Workspace(Body):
    workspace: Name


class Empty(Body):
    pass
