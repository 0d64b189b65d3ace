"""The command line: one file per noun. `docs/cli.md` is its table; a test compares it with `--help`."""

from __future__ import annotations

import os
import sys

COMPLETE = "_TWOFOLD_COMPLETE"  # how a shell asks what could come next (`twofold completion`)


def main() -> None:
    """The `twofold` program. Exit codes: `twofold.model.errors`; 130 after an interrupt."""
    sys.exit(run(sys.argv[1:]))


def run(words: list[str]) -> int:
    """Run one command and return its exit code; errors are printed as people should read them."""
    import typer

    from twofold.cli import out
    from twofold.cli.table import app
    from twofold.model.errors import TwofoldError

    if COMPLETE in os.environ:
        from typer._completion_classes import completion_init

        completion_init()  # typer does it by itself only where it has options for it
    try:
        code = app(args=words, prog_name="twofold", standalone_mode=False)
        sys.stdout.flush()
    except TwofoldError as failed:
        out.error(failed)
        return failed.exit_code
    except (KeyboardInterrupt, typer.Abort):
        sys.stderr.write("\n")
        return 130
    except typer.Exit as end:
        return end.exit_code
    except typer.TyperException as wrong:
        # A bare noun asks for its own help; everything else names the word that is off.
        sys.stderr.write(f"{wrong.format_message()}\n")
        if wrong.exit_code == 2 and (context := getattr(wrong, "ctx", None)) is not None:
            sys.stderr.write(f"See:  {context.command_path} --help\n")
        return wrong.exit_code
    except BrokenPipeError:
        # Whoever read our output has had enough; there is nobody to tell.
        sys.stdout = None
        return 0
    return code if isinstance(code, int) else 0
