"""Models for other runtimes and tools: the forms in which they read our integers."""
