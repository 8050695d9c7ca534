"""The error and the warning that users see."""


class UserError(ValueError):
    """An error that the user can fix: the message names the value, the nearest valid ones and the fix.

    The commands print it as one line `error: ...` and exit with status 2, without a traceback.
    """


class AssumedWarning(UserWarning):
    """A fact that is assumed because the weights do not hold it; the text names the keyword that overrides it.

    `warnings.simplefilter("ignore", jaxdino.AssumedWarning)` hides only these warnings.
    """
