"""What can go wrong, in words that tell the user what to do."""


class KpopError(Exception):
    """Base of every error that is shown to a user: its text is one or two plain sentences."""


class InputError(KpopError):
    """Something the user typed, chose or uploaded cannot be used."""


class ModelError(KpopError):
    """A base model cannot be found, read or run."""


class RunError(KpopError):
    """A run folder is missing, damaged, not writable, or in a state that forbids what was asked."""
