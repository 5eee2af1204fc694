"""Tests of signals, in processes of their own."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

PROJECT = Path(__file__).parents[2]


def run(program: str) -> str:
    """Return what a program prints."""
    return subprocess.run(
        [sys.executable, "-c", program], cwd=PROJECT, capture_output=True, text=True, check=True
    ).stdout


def test_signal_during_a_start_takes_effect_afterwards() -> None:
    """A postponed signal interrupts after the handle of the started process is assigned."""
    assert (
        run("""
import os, signal
from local.interrupts import Interrupts, interrupts_postponed
Interrupts().watch()
try:
    with interrupts_postponed():
        os.kill(os.getpid(), signal.SIGTERM)
        print("started")
    print("not reached")
except KeyboardInterrupt:
    print("interrupted")
""")
        == "started\ninterrupted\n"
    )


def test_second_signal_does_not_stop_the_cleaning_up() -> None:
    """Pressing Ctrl-C twice interrupts once."""
    assert (
        run("""
import os, signal
from local.interrupts import Interrupts
Interrupts().watch()
try:
    os.kill(os.getpid(), signal.SIGINT)
except KeyboardInterrupt:
    os.kill(os.getpid(), signal.SIGINT)
    os.kill(os.getpid(), signal.SIGTERM)
    print("cleaned up")
""")
        == "cleaned up\n"
    )


def test_lost_interrupt_is_raised_by_a_check() -> None:
    """Python drops an exception in a destructor; a check raises it again."""
    assert (
        run("""
import os, signal
from local.interrupts import Interrupts

class Dropped:
    def __del__(self):
        os.kill(os.getpid(), signal.SIGINT)
        print("in the destructor")

interrupts = Interrupts()
interrupts.watch()
interrupts.check()
Dropped()
print("lost")
try:
    interrupts.check()
except KeyboardInterrupt:
    print("found", interrupts.received)
""")
        == "lost\nfound True\n"
    )
