"""Define the exceptions that users read."""


class UserError(Exception):
    """Report a mistake of the user.

    The mistake is in the settings or in the user's files. The message is one line that says what is wrong and what to
    do. Commands print it without a traceback and exit with status 1.
    """


class FolderTaken(UserError):
    """Refuse to write into another run's folder."""
