"""`fidediff app`: a page in the browser that restores a photo, and walks along a trajectory."""
