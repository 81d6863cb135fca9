"""Pre-trained weights: found, checked, loaded."""
