from __future__ import annotations

import json
from pathlib import Path

import pytest

from twofold.model.errors import BadInputError, DamagedError, MissingError, RefusedError
from twofold.trust.device import identity
from twofold.trust.https import Place, invitation, place
from twofold.trust.keys import SigningKey, VerifyKey
from twofold.trust.publisher import publisher


def test_a_device_makes_its_keys_once_and_keeps_them_to_itself(tmp_path: Path) -> None:
    tmp_path.chmod(0o700)
    first = identity(tmp_path)
    again = identity(tmp_path)
    assert first.device == again.device
    assert (tmp_path / "device" / "keys.json").stat().st_mode & 0o777 == 0o600
    assert [path.name for path in (tmp_path / "device").iterdir()] == ["keys.json"]


@pytest.mark.parametrize(
    "damage",
    [b"", b"{}", b"[]", b'{"schema":"twofold-device-2","sign":"00"}', b'{"schema":"twofold-device-3"}', b"\xff"],
)
def test_a_damaged_key_file_is_never_replaced(tmp_path: Path, damage: bytes) -> None:
    tmp_path.chmod(0o700)
    identity(tmp_path)
    path = tmp_path / "device" / "keys.json"
    path.write_bytes(damage)
    with pytest.raises(DamagedError, match="left as it is"):
        identity(tmp_path)
    assert path.read_bytes() == damage


def test_the_first_form_gives_its_wrapping_key_away(tmp_path: Path) -> None:
    tmp_path.chmod(0o700)
    first = identity(tmp_path)
    path = tmp_path / "device" / "keys.json"
    opener = "07" * 32
    path.write_text(json.dumps(json.loads(path.read_text()) | {"schema": "twofold-device-1", "wrap": opener}))
    assert identity(tmp_path).device == first.device
    assert (tmp_path / "device" / "wrapping.key").read_text() == f"twofold-wrapping-key-1 {opener}\n"
    assert opener not in path.read_text()


def test_a_publisher_is_made_only_where_one_is_meant(tmp_path: Path) -> None:
    with pytest.raises(MissingError, match="not on this machine"):
        publisher(tmp_path / "none", make=False)
    assert not list((tmp_path / "none").iterdir())
    made = publisher(tmp_path / "here")
    assert publisher(tmp_path / "here", make=False).signing.id == made.signing.id
    (tmp_path / "here" / "root.json").write_bytes(b"{}")
    (tmp_path / "here" / "root.pem").unlink()
    with pytest.raises(MissingError, match="root key"):
        publisher(tmp_path / "here").root_key()


def test_a_passphrase_seals_the_publishers_key(tmp_path: Path) -> None:
    tmp_path.chmod(0o700)
    made = publisher(tmp_path, b"open sesame")
    assert publisher(tmp_path, b"open sesame").signing.id == made.signing.id
    for wrong in (None, b"close sesame"):
        with pytest.raises(RefusedError):
            publisher(tmp_path, wrong)
    (tmp_path / "company-secret").unlink()
    with pytest.raises(DamagedError, match="not complete"):
        publisher(tmp_path, b"open sesame")


def test_a_signature_is_over_every_bit() -> None:
    key = SigningKey.make()
    signature = key.sign(b"message")
    assert key.verify_key.verifies(signature, b"message")
    assert not key.verify_key.verifies(signature, b"messagf")
    assert not key.verify_key.verifies(signature[:-1], b"message")
    assert not SigningKey.make().verify_key.verifies(signature, b"message")
    assert not VerifyKey(b"\xff" * 32).verifies(signature, b"message")


@pytest.mark.parametrize("text", ["", "0" * 63, "G" * 64, "A" * 64, "0" * 65, None, 7, b"0" * 64, "\uff10" * 64])
def test_a_key_is_exactly_64_small_hex_digits(text: object) -> None:
    with pytest.raises(BadInputError):
        VerifyKey.from_hex(text)


CODE, PIN = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"[:24] + "27", "0f" * 32
REST = f"{PIN}.{'1e' * 32}.{'2d' * 32}"


def test_an_invitation_is_read_whole() -> None:
    found = invitation(f"https://work.example.org:8443/#{CODE}.{REST}")
    assert (found.place, found.code, found.pin) == (Place("work.example.org", 8443), CODE, PIN)
    assert invitation(found.url) == found
    assert invitation(f"https://[::1]:9/#{CODE}.{REST}").url == f"https://[::1]:9/#{CODE}.{REST}"
    assert place("https://10.0.0.1").port == 443


@pytest.mark.parametrize(
    "url",
    [
        f"http://a.example/#{CODE}.{REST}",
        f"https://a.example@evil.example/#{CODE}.{REST}",
        f"https://a.example\\@evil.example/#{CODE}.{REST}",
        f"https://a.example/x#{CODE}.{REST}",
        f"https://a.example/?q#{CODE}.{REST}",
        f"https://a.example:99999/#{CODE}.{REST}",
        f"https://a.example:x/#{CODE}.{REST}",
        f"https://a..example/#{CODE}.{REST}",
        f"https://[::1%25eth0]/#{CODE}.{REST}",
        f"https://a.example\n/#{CODE}.{REST}",
        f"https://ä.example/#{CODE}.{REST}",
        f"https:///#{CODE}.{REST}",
        f"https://a.example/#{CODE}.{REST[:-1]}",
        f"https://a.example/#{CODE.lower()}.{REST}",
        f"https://a.example/#{CODE}.{REST}.x",
        f"https://a.example/#{CODE}.{PIN}",
        f"https://a.example/#{CODE}",
        "https://a.example/",
        "",
        "https://[",
        "https://a.example/#" + "A" * 600,
    ],
)
def test_what_only_looks_like_an_invitation_is_refused(url: str) -> None:
    with pytest.raises(BadInputError):
        invitation(url)
