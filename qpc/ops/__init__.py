"""Operators, each in the file of its family: view, definition, and the record of what it is."""
