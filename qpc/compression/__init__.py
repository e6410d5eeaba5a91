"""The compression loop: prune, train, quantize and judge, round after round, by a recipe."""
