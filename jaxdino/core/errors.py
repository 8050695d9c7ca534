"""The error and the warning that users see."""

from jaxdino.core.words import bounded


class UserError(ValueError):
    """An error that the user can fix: the message names the value, the nearest valid ones and the fix.

    The commands print it as one line `error: ...` and exit with status 2, without a traceback. Control characters are
    escaped and long quotes cut, since messages quote files.
    """

    def __init__(self, message: str):
        super().__init__(bounded(message))


class AssumedWarning(UserWarning):
    """A fact that is assumed because the weights do not hold it; the text names the keyword that overrides it.

    `warnings.simplefilter("ignore", jaxdino.AssumedWarning)` hides only these warnings.
    """
