"""From a manifest to batches of trajectory crops."""
