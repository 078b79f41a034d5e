"""Results as text for the terminal and as HTML for notebooks."""
