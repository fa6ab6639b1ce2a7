"""Libraries that the core does without, and the extra that brings each; none of them is loaded here.

    pip install 'tune-platform[torch]'

`docs/install.md` says what the extras are for.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib.util import find_spec

from tune_platform.errors import MissingLibraryError

#: The extra by the name that the library is imported by.
EXTRAS: Mapping[str, str] = {
    "torch": "torch",
    "torchvision": "torch",
    "pyarrow": "parquet",
    "cmaes": "samplers",
    "scipy": "samplers",
    "sklearn": "samplers",
    "aiohttp": "cluster",  # of ray[default]
    "adlfs": "cluster",
    "gcsfs": "cluster",
    "s3fs": "cluster",
    "matplotlib": "plots",
    "plotly": "plots",
    "kaleido": "plots",
    "dash": "dashboard",
    "dash_ag_grid": "dashboard",
    "dash_mantine_components": "dashboard",
    "psycopg": "postgresql",
    "gymnasium": "policy-gradient",
    "mujoco": "policy-gradient",
    "lightning": "lightning",
    "xgboost": "xgboost",
    "lightgbm": "lightgbm",
    "transformers": "transformers",
    "accelerate": "transformers",
    "keras": "keras",
    "mlflow": "mlflow",
    "tensorboardX": "tensorboard",
    "wandb": "wandb",
}


def how_to_install(module: str | None) -> str:
    """Return ": pip install ..." for a module that an extra brings, an empty string for any other."""
    extra = EXTRAS.get((module or "").partition(".")[0])
    return f": pip install 'tune-platform[{extra}]'" if extra else ""


def how_to_install_driver(error: BaseException) -> str:
    """Return the same for fsspec's error about a storage whose library is not installed; it names that in words."""
    named = (driver for driver in ("s3fs", "gcsfs", "adlfs") if isinstance(error, ImportError) and driver in str(error))
    return how_to_install(next(named, None))


def require(what: str, *modules: str) -> None:
    """Raise MissingLibraryError for the first of `modules` that is not installed; `what` needs it. Imports none."""
    for module in modules:
        if not is_installed(module):
            raise MissingLibraryError(
                f"{what} needs {module!r}, which is not installed{how_to_install(module)}", module
            )


def is_installed(module: str) -> bool:
    """Tell whether a module can be imported, by looking for its file only."""
    try:
        return find_spec(module) is not None
    except (ImportError, ValueError):  # its package is not there, or was blocked
        return False
