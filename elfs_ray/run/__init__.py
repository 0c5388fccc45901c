"""A run from beginning to end: which stages, in which order, and what goes wrong."""
