"""Blur trajectories from frames: expand GoPro, or make a blur set of your own footage."""
