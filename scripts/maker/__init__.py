"""Make genuine conda environments from the running Python and PyPI, without a conda channel.

The running interpreter and wheels become conda packages in a channel on disk; py-rattler solves and installs
environments from that.
"""

from scripts.maker.errors import MakerError
from scripts.maker.install import Record, change, make, records
from scripts.maker.recipes import RECIPES

__all__ = ["RECIPES", "MakerError", "Record", "change", "make", "records"]
