"""The one exception type that means "the user can mend this", and how it is told."""

import errno
import sys
from collections.abc import Callable, Sequence

# Errors of a disk that takes no more: full, over the user's quota, or over the limit of a file.
_NO_SPACE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


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

    The error is told in one line; None is 0. A full disk is told like one, and Ctrl-C with status
    130, as shells have it.
    """
    try:
        return command() or 0
    except UserError as error:
        print(f"{program}: error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(f"{program}: interrupted", file=sys.stderr)
        return 130
    except Exception as error:
        fault = full_disk(error)
        if fault is None:
            raise
        print(f"{program}: error: {fault}; make room and start again", file=sys.stderr)
        return 2


def full_disk(error: BaseException | None) -> OSError | None:
    """The failed write to a full disk that an error is or comes from, if there is one.

    torch.save, for one, raises another error after it.
    """
    while error is not None:
        if isinstance(error, OSError) and error.errno in _NO_SPACE:
            return error
        error = error.__cause__ or error.__context__
    return None
