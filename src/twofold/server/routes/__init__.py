"""One module per noun. Who may call what is decided in `server.gate`, before any of these run."""
