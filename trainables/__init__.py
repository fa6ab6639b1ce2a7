"""Training code that the platform can tune: the examples, and the systems of the papers.

Each module names, in its docstring, the metrics it reports and the hyperparameters it reads.
"""

from tune_platform.extras import require

require("what ships in tune_platform.trainables", "torch")
