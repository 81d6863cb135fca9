"""Losses and image-quality scores."""
