"""Rules of normalisation: one spelling per operator."""
