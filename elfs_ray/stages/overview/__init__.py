"""Stages of which nothing but the report reads the results."""
