"""Tables of learning curves: what trainings did, step by step, to be looked up instead of trained again.

What does not belong here: who chooses configs, and the virtual clock (`backends/simulated.py`).
"""
