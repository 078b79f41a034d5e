"""Plans from a fit: tokens to buy, compute to split, base models and next runs to choose."""
