"""The local model: its weights, its server, and the sample assessment that is asked of it."""
