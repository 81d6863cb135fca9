"""Run a trained model over images, folders and videos."""
