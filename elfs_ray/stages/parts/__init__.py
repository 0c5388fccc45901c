"""What stages are made of and do not share a file with."""
