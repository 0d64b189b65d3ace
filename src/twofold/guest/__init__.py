"""Runs inside the VM: applications, launch, notices, freeze. Standard library only, one file tree for every architecture."""
