"""The report: one HTML file about a compressed model, and the data that it is made of."""
