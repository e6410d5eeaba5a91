"""From a graph to Relax and TIR."""
