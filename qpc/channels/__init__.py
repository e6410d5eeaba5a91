"""Which channels belong together, from what flows through a graph, and how they are removed."""
