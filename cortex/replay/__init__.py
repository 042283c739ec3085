"""What a fleet would have done otherwise: its recorded requests once more, on a virtual clock."""
