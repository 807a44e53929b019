"""The entry point: `rankr-sync`, and `python -m rankr_sync`.

Loads nothing before it can be ended: the first process of a container does not die of a SIGTERM that it has
not asked for, and loading the rest takes most of a second.
"""

import os
import signal
import sys
from types import FrameType


def main() -> None:
    """Run the command line."""
    signal.signal(signal.SIGTERM, _end_at_once)
    interrupted = signal.getsignal(signal.SIGINT)
    if interrupted is signal.default_int_handler:  # else whoever started this does not want it to end of it
        signal.signal(signal.SIGINT, _end_at_once)
    from rankr_sync.cli import main as command_line

    signal.signal(signal.SIGINT, interrupted)
    command_line()


def _end_at_once(number: int, frame: FrameType | None) -> None:
    """Nothing has been done yet that would have to be saved. Commands with work to save replace this."""
    os._exit(0 if "run" in sys.argv[1:2] else 128 + number)


if __name__ == "__main__":
    main()
