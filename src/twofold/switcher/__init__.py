"""What the person sees: a native window in front of their own desktop. Imports `display` and the agent's API client."""
