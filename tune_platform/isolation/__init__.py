"""What trials that run in one process one after the other do not share: its state, what they leave, what they print."""
