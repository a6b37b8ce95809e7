"""A clock that a test sets, for what takes its clock as a parameter."""


class FakeClock:
    """Seconds, as `time.monotonic` has them. No two moments are the same: each reading is later."""

    def __init__(self, now_s: float = 1000.0) -> None:
        self.now_s = now_s

    def __call__(self) -> float:
        self.now_s += 1e-6
        return self.now_s

    def advance(self, seconds: float) -> None:
        """So much time passes."""
        self.now_s += seconds
