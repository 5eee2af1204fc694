"""Signals, in processes of their own."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

PROJECT = Path(__file__).parents[2]


def run(program: str) -> str:
    """What a program prints."""
    return subprocess.run(
        [sys.executable, "-c", program], cwd=PROJECT, capture_output=True, text=True, check=True
    ).stdout


def test_a_signal_during_a_start_takes_effect_after_it() -> None:
    """A postponed signal interrupts when the process that was started is known, not before."""
    assert (
        run("""
import os, signal
from local.interrupts import Interrupts, interrupts_postponed
Interrupts().watch()
try:
    with interrupts_postponed():
        os.kill(os.getpid(), signal.SIGTERM)
        print("started")
    print("never")
except KeyboardInterrupt:
    print("interrupted")
""")
        == "started\ninterrupted\n"
    )


def test_a_second_signal_does_not_stop_the_cleaning_up() -> None:
    """Whoever presses Ctrl-C twice interrupts once."""
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


def test_an_interrupt_that_got_lost_can_be_asked_for() -> None:
    """Python drops what a signal raises in a destructor; a check raises it again."""
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
    print("found", interrupts.came)
""")
        == "lost\nfound True\n"
    )
