"""Training in three stages, each one readable function: `base`, `kernel`, `control`."""
