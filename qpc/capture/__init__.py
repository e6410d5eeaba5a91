"""From a module to a graph in core form."""
