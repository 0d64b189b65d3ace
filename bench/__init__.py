"""Benches: one file per group of figures. Each runs ours and its peers in turn on the same work; none fails for being slow."""
