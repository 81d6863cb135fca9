"""FideDiff in Python: one step from any point of a blur trajectory back to the sharp image."""
