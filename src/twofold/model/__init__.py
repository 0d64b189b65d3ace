"""What the system talks about: images, workspaces, policies, leases, their states and legal moves. Pure data, no I/O.

This package imports nothing of Twofold but itself; every other room may import it.
"""
