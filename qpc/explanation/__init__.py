"""Why a compressed model is slow, or wrong, and which layer it is."""
