"""CMYK images as sRGB."""

from __future__ import annotations

import io
from typing import Any


def to_srgb(image: Any) -> Any:
    """A CMYK image of Pillow's as sRGB, through its own profile where it has one that works."""
    from PIL import ImageCms

    profile = image.info.get("icc_profile")
    if profile:
        try:
            own = ImageCms.ImageCmsProfile(io.BytesIO(profile))
            srgb = ImageCms.createProfile("sRGB")
            return ImageCms.profileToProfile(image, own, srgb, outputMode="RGB")
        except (ImageCms.PyCMSError, OSError):
            return image.convert("RGB")
    return image.convert("RGB")
