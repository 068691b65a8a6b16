"""The exceptions that a user is meant to read."""


class UserError(Exception):
    """A mistake in what the user typed or has on disk.

    The message is one line that says what is wrong and what to do. Commands print it
    without a traceback and exit with status 1.
    """


class FolderTaken(UserError):
    """The folder of a run belongs to another one, in which nothing may be written."""
