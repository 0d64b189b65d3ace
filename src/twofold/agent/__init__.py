"""The machine's daemon: operations, policy, supervision. Lean: nothing here imports a server's or a window's libraries."""
