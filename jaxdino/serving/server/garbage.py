"""Keep Python's garbage collector away from what stays: a full pass over JAX and the models takes 0.2 s.

Every thread stands still in that time, so a pass under load shows in the longest latencies.
"""

import gc


def set_aside() -> None:
    """Collect the garbage once, and leave all that is left out of later passes. Called when models were loaded."""
    gc.unfreeze()
    gc.collect()
    gc.freeze()


def take_back() -> None:
    """Let the collector see everything again."""
    gc.unfreeze()
