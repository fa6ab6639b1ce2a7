"""What several drivers on one cluster owe each other. Knows of no backend."""
