"""The core op set: registry, typed views and integer operators."""
