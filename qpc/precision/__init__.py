"""How few bits each part of a model can do with, and which bits to give it."""
