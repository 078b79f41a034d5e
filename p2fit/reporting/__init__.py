"""The report: one HTML page that says what was fitted, how well, how sure, and what to do next."""
