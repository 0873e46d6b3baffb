"""Build real conda environments from the running Python and PyPI, without access to a conda channel.

The running interpreter and wheels are turned into conda packages in a channel on disk, from which py-rattler solves and
installs environments.
"""

from scripts.maker.errors import MakerError
from scripts.maker.install import Record, change, make, records
from scripts.maker.recipes import RECIPES

__all__ = ["RECIPES", "MakerError", "Record", "change", "make", "records"]
