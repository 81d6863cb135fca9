"""Arrays in, arrays out: exact means, camera response, motion and interpolation."""
