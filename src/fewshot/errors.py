"""Define the exceptions that users read."""


class UserError(Exception):
    """Report a mistake in settings or files of the user.

    The message is one line that says what is wrong and what to do. Commands print it
    without a traceback and exit with status 1.
    """


class FolderTaken(UserError):
    """Refuse to write into the folder of another run."""
