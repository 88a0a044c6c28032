"""The one exception type that means "the user can mend this"."""


class UserError(ValueError):
    """A mistake in a config, a data set or a command line, told in one line.

    The message says what was expected, what came and what to do. Command lines print it without a
    traceback and exit with status 2; anything else that is raised is a fault of the program.
    """
