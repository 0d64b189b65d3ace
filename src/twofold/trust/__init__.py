"""Keys, signatures, device identity, and the pinned way to a server. Imports `model` and `platform` alone."""
