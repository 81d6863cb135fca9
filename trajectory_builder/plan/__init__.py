"""Every pair, window and file name of a data set, decided before a pixel is read."""
