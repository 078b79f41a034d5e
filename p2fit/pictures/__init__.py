"""Pictures, drawn by matplotlib (the extra ``plot``).

Coloured for the colour-blind (Okabe & Ito's colours; viridis for what has an order), the same
bytes from the same input, as PNG, SVG or PDF.
"""
