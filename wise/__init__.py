"""Lifelong model editing with WISE, the editors it is compared with, and how all are measured.

Importing this package loads no model and no torch; import the module that is needed.
"""

__all__ = ["__version__"]

__version__ = "0.1.0"
