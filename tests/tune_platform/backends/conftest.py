import os

# Before Ray is imported: under `uv run` it would otherwise build an environment anew for every worker.
os.environ.setdefault("RAY_ENABLE_UV_RUN_RUNTIME_ENV", "0")
