"""Waits between attempts: exponential, with full jitter (R45)."""

import random

FIRST_S = 0.2
LONGEST_S = 30


class Backoff:
    def __init__(self):
        self.window = FIRST_S

    def next(self) -> float:
        wait = random.uniform(0, self.window)
        self.window = min(2 * self.window, LONGEST_S)
        return wait

    def progress(self) -> None:
        """Only after something has moved, not after a mere connection."""
        self.window = FIRST_S
