"""Other programs' logs, made into loss curves."""
