"""Workers of small runs: threads of this process. Nothing is started, and no Ray is imported."""
