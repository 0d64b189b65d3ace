"""What the gate asks of a browser: pages of ours, a session in a cookie that no script can read, and no other site behind it."""

from __future__ import annotations

from collections.abc import Mapping

from twofold.model.errors import RefusedError

ROOT = "/online"
SOCKET = f"{ROOT}/screen"
COOKIE = "__Host-twofold"  # the prefix: only over TLS, only from this host, for all of it
# Pictures by data: are what noVNC paints with. Nothing else from anywhere but here, and nothing inline.
_POLICY = (
    b"default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
    b"base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
HEADERS = (
    (b"content-security-policy", _POLICY),
    (b"cross-origin-opener-policy", b"same-origin"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"permissions-policy", b"camera=(), microphone=(), geolocation=(), fullscreen=(self)"),
    (b"referrer-policy", b"no-referrer"),
    (b"x-content-type-options", b"nosniff"),
    (b"x-frame-options", b"DENY"),
)


def ours(path: str) -> bool:
    """Whether a path is one of the pages."""
    return path in ("/", ROOT) or path.startswith(f"{ROOT}/")


def cookie(untrusted_headers: Mapping[str, str]) -> str:
    """The session's token, or ""."""
    for part in untrusted_headers.get("cookie", "").split(";"):
        name, _, value = part.strip().partition("=")
        if name == COOKIE and 8 <= len(value) <= 128:
            return value
    return ""


def set_cookie(token: str, seconds: int) -> str:
    """The header that begins a session; an empty token ends it."""
    age = seconds if token else 0
    return f"{COOKIE}={token}; Path=/; Max-Age={age}; Secure; HttpOnly; SameSite=Strict"


def visit(method: str, untrusted_headers: Mapping[str, str]) -> bool:
    """Whether somebody follows a link to a page: from anywhere, since it shows nothing to where it comes from, and a cookie of
    ours does not come with it."""
    fetch = tuple(untrusted_headers.get(f"sec-fetch-{name}") for name in ("mode", "dest"))
    return method == "GET" and fetch == ("navigate", "document") and "origin" not in untrusted_headers


def require_origin(untrusted_headers: Mapping[str, str]) -> None:
    """A browser's WebSocket says where its page is from, always; the name in Host was looked at before.

    Raises:
        RefusedError: it is another site's, or says nothing.
    """
    if untrusted_headers.get("origin") != f"https://{untrusted_headers.get('host', '')}":
        raise RefusedError("Requests from other sites are refused.")
