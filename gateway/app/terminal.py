"""Whether the process has a terminal."""

import os


def has_terminal() -> bool:
    """Whether there is a controlling terminal; not any more once its window is closed."""
    try:
        os.close(os.open("/dev/tty", os.O_RDONLY | os.O_NOCTTY))
    except OSError:
        return False
    return True
