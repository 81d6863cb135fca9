"""Atomic files, batches of files, locks and progress."""
