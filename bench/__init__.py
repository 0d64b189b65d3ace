"""Benches: one file per group of figures. Each runs ours and its peers alternately on the same work and never judges by failing."""
