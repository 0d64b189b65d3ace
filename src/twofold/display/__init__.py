"""The guest's screen, input and sound over a descriptor that the engine hands out. Imports `model` and `platform`."""
