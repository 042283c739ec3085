"""What the documents show works as it is written."""
