"""What only one operating system has: programs, descriptors, credentials, limits. Imports `model` alone."""
