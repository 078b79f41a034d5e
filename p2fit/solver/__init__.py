"""From a law on rows to its optimum, and to what the rows determine of it."""
