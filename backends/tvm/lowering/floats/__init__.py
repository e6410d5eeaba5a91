"""Rules of operators that stay in float, by family, and what translates them to Relax."""
