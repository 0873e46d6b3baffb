"""The environments that can be created."""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType


@dataclass(frozen=True)
class Recipe:
    """The packages of an environment: `wheels` from PyPI, by requirement, and `own` packages, built here.

    `spares` are wheels in the channel that are not installed.
    """

    summary: str
    wheels: tuple[str, ...] = ()
    own: tuple[str, ...] = ()
    spares: tuple[str, ...] = ()

    @property
    def specs(self) -> tuple[str, ...]:
        """The specs that the environment is created with."""
        return (*self.own, *self.wheels)


# Small packages without dependencies, for tests that add, update, and remove packages. There are two versions of click,
# so that it can be updated.
SPARES = ("six", "tabulate", "click", "click==8.1.7")

LARGE = (
    *("ipykernel", "numpy", "pandas", "pip", "setuptools", "wheel"),
    *("scipy", "scikit-learn", "scikit-image", "statsmodels", "sympy", "networkx", "xarray", "distributed"),
    *("matplotlib", "seaborn", "plotly", "bokeh", "altair", "ipywidgets", "ipympl"),
    *("pyarrow", "h5py", "zarr", "openpyxl", "sqlalchemy", "psycopg2-binary", "lxml", "cryptography"),
    *("opencv-python-headless", "imageio", "numba", "lightgbm", "xgboost-cpu", "nltk", "shapely"),
    *("jupyterlab", "notebook", "nbconvert", "boto3", "s3fs", "requests", "aiohttp", "fastapi", "uvicorn"),
    *("pytest", "hypothesis", "black", "beautifulsoup4", "tqdm", "rich"),
)

RECIPES: Mapping[str, Recipe] = MappingProxyType(
    {
        "tiny": Recipe("Python and a Jupyter kernel", ("ipykernel",), ("python",), SPARES),
        "science": Recipe(
            "Python, a Jupyter kernel, numpy and pip",
            ("ipykernel", "numpy", "pip"),
            ("python",),
            SPARES,
        ),
        "large": Recipe("A large data science environment: over 150 packages", LARGE, ("python",), SPARES),
        "compiled": Recipe(
            "Python and a compiled program, which needs cc", (), ("python", "whereami", "textdata"), SPARES
        ),
        "kernels": Recipe(
            "Python with kernels of two languages, and a compiled program, which needs cc",
            ("ipykernel", "bash-kernel", "pip"),
            ("python", "whereami"),
        ),
        "no-python": Recipe("A compiled program, which needs cc, and data", (), ("whereami", "textdata")),
        "data": Recipe("Only data", (), ("textdata",)),
    }
)
