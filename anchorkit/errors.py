"""The one exception type that means "the user can mend this", and how it is told."""

import sys
from collections.abc import Callable, Sequence


class UserError(ValueError):
    """A mistake in a config, a data set or a command line, told in one line.

    The message says what was expected, what came and what to do. Command lines print it without a
    traceback and exit with status 2; anything else that is raised is a fault of the program.
    """


def quoted(names: Sequence[str], limit: int = 6) -> str:
    """The names in quotes, and from ``limit`` on only how many more there are."""
    more = f" and {len(names) - limit} more" if len(names) > limit else ""
    return ", ".join(map(repr, names[:limit])) + more


def exit_status(program: str, command: Callable[[], int | None]) -> int:
    """Run a command line; its exit status is what it returns, or 2 after a :class:`UserError`.

    The error is told in one line; None is 0.
    """
    try:
        return command() or 0
    except UserError as error:
        print(f"{program}: error: {error}", file=sys.stderr)
        return 2
