"""`python -m twofold.server --home DIR init|run`: the server without the rest of the CLI."""

from __future__ import annotations

import argparse
import json
import os
import sys
from pathlib import Path

from twofold.model.errors import TwofoldError
from twofold.server.app import routes
from twofold.server.run import init, serve


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m twofold.server")
    parser.add_argument("--home", type=Path, required=True, help="the server's folder")
    verbs = parser.add_subparsers(dest="verb", required=True)
    new = verbs.add_parser(
        "init", help="make a server; the administrator's password is read from TWOFOLD_PASSWORD or stdin"
    )
    new.add_argument("--admin", default="admin")
    new.add_argument("--company", default="Work")
    new.add_argument("--name", action="append", default=[], help="a host name or address that it answers to")
    new.add_argument(
        "--database", default="", help="postgresql+psycopg://user@host/database; a file where there is none"
    )
    new.add_argument("--objects", default="", help="s3://bucket/prefix?endpoint=URL; a folder where there is none")
    run = verbs.add_parser("run", help="run the server")
    run.add_argument("--host", default="127.0.0.1")
    run.add_argument("--port", type=int, default=8443)
    verbs.add_parser("openapi", help="print the API's description, as docs/openapi-v1.json keeps it")
    args = parser.parse_args()
    try:
        if args.verb == "init":
            password = os.environ.pop("TWOFOLD_PASSWORD", None) or sys.stdin.readline().rstrip("\n")
            made = init(args.home, args.admin, password, args.company, args.name, args.database, args.objects)
            sys.stdout.write(made.pin + "\n")
        elif args.verb == "openapi":
            sys.stdout.write(json.dumps(routes().openapi(), indent=1, sort_keys=True) + "\n")
        else:
            serve(args.home, args.host, args.port)
    except TwofoldError as error:
        sys.stderr.write(f"{error}\n")
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
