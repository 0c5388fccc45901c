"""What a run would choose and take."""
