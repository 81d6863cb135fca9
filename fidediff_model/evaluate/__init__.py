"""Restore a data set, score it and tabulate the scores."""
