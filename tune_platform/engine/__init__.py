"""The engine: trial states, events and commands, the pure controller, and the loop that runs it."""
