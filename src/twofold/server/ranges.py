"""Part of an object, as RFC 9110 says for one range; several at once are not served and answered whole."""

from __future__ import annotations

import re
from typing import Annotated

from fastapi import Header, Response
from fastapi.responses import StreamingResponse

from twofold.server.objects import Objects, lost, size, stream

Range = Annotated[str | None, Header(alias="range", max_length=100)]
_ONE = re.compile(r"bytes=(\d{0,18})-(\d{0,18})")


def ranged(objects: Objects, key: str, untrusted_range: str | None) -> Response:
    """Answer with an object or the part of it that was asked for, streaming.

    Raises:
        DamagedError: the object is not here.
    """
    whole = size(objects, key)
    if whole is None:
        raise lost(1)
    headers = {"Accept-Ranges": "bytes"}
    asked = _ONE.fullmatch(untrusted_range or "")
    start, end, status = 0, whole, 200
    if asked and any(asked.groups()):
        first, last = asked.groups()
        if first:
            start, end = int(first), min(whole, int(last) + 1) if last else whole
        else:
            start = max(0, whole - int(last))
        if not start < end:
            return Response(status_code=416, headers=headers | {"Content-Range": f"bytes */{whole}"})
        status = 206
        headers["Content-Range"] = f"bytes {start}-{end - 1}/{whole}"
    headers["Content-Length"] = str(end - start)
    return StreamingResponse(stream(objects, key, start, end), status, headers, media_type="application/octet-stream")
