"""The table of verbs: what there is, in the order of `twofold --help`."""

from __future__ import annotations

import typer

from twofold.cli import (
    agents,
    backups,
    device,
    disks,
    grants,
    groups,
    guest,
    images,
    jobs,
    keys,
    leases,
    machine,
    nodes,
    policies,
    receipts,
    server,
    session,
    users,
    workspace,
    workspaces,
)

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    help="One device, two lives: a company's sealed workspace beside your own desktop.",
    epilog="Exit codes and JSON: docs/cli.md",
)

for name, command in (
    ("enrol", device.enrol),
    ("list", workspaces.list_),
    ("status", workspaces.status),
    ("info", workspaces.info),
    ("checkout", workspaces.checkout),
    ("open", workspaces.open_),
    ("switch", workspaces.switch),
    ("apps", guest.apps),
    ("launch", guest.launch),
    ("unlock", workspaces.unlock),
    ("start", workspaces.start),
    ("suspend", workspaces.suspend),
    ("pause", workspaces.pause),
    ("resume", workspaces.resume),
    ("stop", workspaces.stop),
    ("off", workspaces.off),
    ("backup", backups.backup),
    ("backups", backups.backups),
    ("checkin", backups.checkin),
    ("discard", backups.discard),
    ("reset", workspaces.reset),
    ("remove", workspaces.remove),
    ("receipts", receipts.receipts),
    ("doctor", machine.doctor),
    ("assurance", machine.assurance),
    ("log", agents.log),
    ("version", machine.version),
    ("completion", machine.completion),
    ("login", session.login),
    ("logout", session.logout),
    ("whoami", session.whoami),
):
    app.command(name)(command)
for name, noun in (
    ("disk", disks.app),
    ("jobs", jobs.app),
    ("agent", agents.app),
    ("server", server.app),
    ("image", images.app),
    ("user", users.app),
    ("group", groups.app),
    ("grant", grants.app),
    ("device", device.app),
    ("node", nodes.app),
    ("key", keys.app),
    ("workspace", workspace.app),
    ("lease", leases.app),
    ("policy", policies.app),
):
    app.add_typer(noun, name=name)
