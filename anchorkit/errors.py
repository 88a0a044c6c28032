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

    The error is told in one line; None is 0. What :func:`outer_fault` knows is told like one, and
    Ctrl-C has status 130, as in shells.
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
        fault = outer_fault(error)
        if fault is None:
            raise
        print(f"{program}: error: {fault}", file=sys.stderr)
        return 2


def outer_fault(error: Exception) -> str | None:
    """What to tell of an error whose cause is outside of the program, and what to do.

    That is a full disk, or the death of a process that loads data; None for any other error.
    """
    disk = full_disk(error)
    if disk is not None:
        return f"{error if isinstance(error, UserError) else disk}; make room and start again"
    if "DataLoader worker (pid" in str(error):
        return (
            f"a process that loads data died ({str(error).strip()[:80]}); if memory ran out, lower "
            "DATALOADER.NUM_WORKERS or SOLVER.IMS_PER_BATCH and start again"
        )
    return None


def full_disk(error: BaseException | None) -> OSError | None:
    """The failed write to a full disk that an error is or comes from, if there is one.

    torch.save, for one, raises another error after it.
    """
    while error is not None:
        if isinstance(error, OSError) and error.errno in _NO_SPACE:
            return error
        error = error.__cause__ or error.__context__
    return None
