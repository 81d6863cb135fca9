"""The whole chain on the embedded sample, in minutes."""
