"""How good a law or a design is: hold-outs, comparisons, what a design can tell."""
