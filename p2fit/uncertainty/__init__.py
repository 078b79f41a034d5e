"""How sure an optimum is: jackknife, bootstrap, profiles, draws, equally good parameters."""
