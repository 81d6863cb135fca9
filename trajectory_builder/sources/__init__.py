"""Where frames come from: each module is one way to a list of clips."""
