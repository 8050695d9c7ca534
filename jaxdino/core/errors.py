"""The one error a user is meant to read, and the one warning."""


class UserError(ValueError):
    """Something the user can mend: the message names the thing, the nearest right ones and the fix.

    The command lines print it as one `error: ...` and exit with status 2, without a traceback.
    """


class AssumedWarning(UserWarning):
    """A fact that weights do not hold and that was assumed: the text names the keyword that overrules it.

    `warnings.simplefilter("ignore", jaxdino.AssumedWarning)` hides these, and no other warnings.
    """
