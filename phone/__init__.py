"""The emulated phone: its build, its harness and its demonstration. Nothing here is part of what is installed."""
