"""The server's own authority and the certificate under it. Devices pin the authority; the certificate may change."""

from __future__ import annotations

import datetime
import ipaddress
from collections.abc import Sequence
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from twofold.model.errors import DamagedError
from twofold.trust.keys import write_private

_AUTHORITY_DAYS, _DAYS, _RENEW_DAYS = 3650, 397, 60
_PEM = serialization.Encoding.PEM


def make_authority(folder: Path, company: str) -> None:
    """Write `authority.der` and `authority.key`."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = _name(f"{company} (Twofold)"[:64])
    usage = _usage(signs=True)
    certificate = (
        _builder(name, name, key.public_key(), _AUTHORITY_DAYS)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(usage, critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .sign(key, hashes.SHA256())
    )
    write_private(folder / "authority.key", _pem(key))
    write_private(folder / "authority.der", certificate.public_bytes(serialization.Encoding.DER))


def ensure_certificate(folder: Path, names: Sequence[str]) -> None:
    """Make `tls.crt` and `tls.key` where they are missing, do not cover `names` (host names or addresses) or end soon."""
    path = folder / "tls.crt"
    wanted = _alternatives(names)
    if path.exists() and (folder / "tls.key").exists():
        try:
            held = x509.load_pem_x509_certificate(path.read_bytes())
            covered = held.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        except (ValueError, x509.ExtensionNotFound):
            covered, held = None, None
        soon = datetime.datetime.now(datetime.UTC) + datetime.timedelta(days=_RENEW_DAYS)
        if held is not None and covered == wanted and held.not_valid_after_utc > soon:
            return
    try:
        authority = x509.load_der_x509_certificate((folder / "authority.der").read_bytes())
        signer = serialization.load_pem_private_key((folder / "authority.key").read_bytes(), None)
    except (OSError, ValueError) as off:
        raise DamagedError(
            f"The server's authority in {folder} cannot be read.",
            safe="Nothing was changed.",
            next="Restore authority.der and authority.key from a copy: devices trust no other.",
        ) from off
    if not isinstance(signer, ec.EllipticCurvePrivateKey):
        raise DamagedError(f"{folder / 'authority.key'} is a key of another kind.", next="Restore it from a copy.")
    key = ec.generate_private_key(ec.SECP256R1())
    certificate = (
        _builder(_name("Twofold server"), authority.subject, key.public_key(), _DAYS)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(signs=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(wanted, critical=False)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(signer.public_key()), critical=False)
        .sign(signer, hashes.SHA256())
    )
    write_private(folder / "tls.key", _pem(key))
    write_private(path, certificate.public_bytes(_PEM))


def _builder(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey, days: int
) -> x509.CertificateBuilder:
    now = datetime.datetime.now(datetime.UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))  # devices' clocks differ
        .not_valid_after(now + datetime.timedelta(days=days))
    )


def _usage(*, signs: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs, content_commitment=False, key_encipherment=False, data_encipherment=False,
        key_agreement=False, key_cert_sign=signs, crl_sign=signs, encipher_only=False, decipher_only=False,
    )  # fmt: skip


def _alternatives(names: Sequence[str]) -> x509.SubjectAlternativeName:
    entries: list[x509.GeneralName] = []
    for name in names:
        try:
            entries.append(x509.IPAddress(ipaddress.ip_address(name)))
        except ValueError:
            entries.append(x509.DNSName(name))
    return x509.SubjectAlternativeName(entries)


def _name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])


def _pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(_PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
