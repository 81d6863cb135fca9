"""The version of the project, told in this one place."""

__version__ = "0.1.0"
