"""What a run leaves: tables and arrays in its folder, and how they are reached."""
