"""The version of the project; this is its only place."""

__version__ = "0.1.0"
