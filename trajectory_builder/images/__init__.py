"""Strict reading and fast writing of images, for both packages."""
