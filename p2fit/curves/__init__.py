"""Loss curves: reading and checking them, choosing the rows and the law of a fit."""
