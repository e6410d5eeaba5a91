"""QPC, the quantize-prune compiler."""
