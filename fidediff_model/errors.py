"""Errors of the model half alone; the rest are in `trajectory_builder.errors`."""

from __future__ import annotations

from trajectory_builder.errors import ExitCode, UserError


class ModelError(UserError):
    """A model, or a base model, that is absent, damaged or cannot do what is asked of it."""

    default_exit_code = ExitCode.WRONG_USE


class WeightsError(UserError):
    """Weights of a base, of VGG16 or of a score that cannot be found, read or used."""


class DeviceError(UserError):
    """A device that is absent, cannot do what is asked, or is out of memory."""


class TrainingError(UserError):
    """A training run that cannot go on; its last checkpoint stays."""
