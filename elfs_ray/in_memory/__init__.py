"""Picks from what is in memory: no Ray, no run folder, nothing on the disk."""
