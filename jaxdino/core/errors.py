"""The one error a user is meant to read."""


class UserError(ValueError):
    """Something the user can mend: the message names the thing, the nearest right ones and the fix.

    The command lines print it as one `error: ...` and exit with status 2, without a traceback.
    """
