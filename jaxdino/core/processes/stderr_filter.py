"""Pass a process's errors on without the page that JAX writes when process 0 is gone, and end with one line about it.

`python stderr_filter.py LINE`, from standard input to standard output. It imports nothing of ours: it starts at once.
Where process 0 ends, JAX's client aborts the other processes in C++, often before our own watch can say a word.
"""

import re
import sys

NOISE = re.compile(
    rb"[WEF]\d{4} .*(preemption_sync_manager|coordination_service|/?client\.h)|Additional GRPC error information"
    rb"|:UNKNOWN:Error received from peer|RPC: /xla\.coordination|\*\*\* Check failure stack trace|    @ +0x"
)
FATAL = re.compile(rb"F\d{4} .*client\.h")
OURS = re.compile(rb"error: ")


def main(line: bytes) -> None:
    """Filter until the process ends."""
    fatal = told = False
    for text in sys.stdin.buffer:
        fatal, told = fatal or bool(FATAL.match(text)), told or bool(OURS.match(text))
        if NOISE.match(text) or (fatal and not OURS.match(text)):
            continue
        sys.stdout.buffer.write(text)
        sys.stdout.buffer.flush()
    if fatal and not told:
        sys.stdout.buffer.write(line + b"\n")


if __name__ == "__main__":
    main(sys.argv[1].encode())
