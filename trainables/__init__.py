"""Training code that the platform can tune: the examples, and the systems of the papers.

Each module names, in its docstring, the metrics it reports and the hyperparameters it reads.
"""
