"""Training of graphs: switching it on and off, and what goes on between steps of compression."""
