"""The one error that a user can mend."""

from p2fit import FitError


class RunError(FitError):
    """A run that cannot be done or went wrong; the message says what to change."""
