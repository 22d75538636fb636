"""The exceptions that are ours; everything else is ValueError, TypeError or OSError."""


class FormatError(ValueError):
    """A model or state file is not what it should be: cut short, changed, of another version, or of another model."""


class DamagedError(FormatError):
    """A file whose content does not match its digest, or that is cut short."""
