"""What this deployment has: an assessment per folder, declared in its defs.yaml."""
