"""Where trials run: Ray workers, this very process, or a virtual clock. Only `ray.py` imports Ray."""
