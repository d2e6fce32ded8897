"""The commands, each as its help tells it."""
