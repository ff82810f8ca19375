"""Questions that may hang, asked in a thread that nobody waits for at the end."""

from __future__ import annotations

import subprocess
import sys
import threading

import pytest

from exporter.threads import in_time

HANGS = """
import asyncio, threading
from exporter.threads import in_time
try:
    asyncio.run(in_time(threading.Event().wait, 0.1))
except TimeoutError:
    print("given up")
"""


async def test_the_answer_comes_from_another_thread() -> None:
    assert await in_time(lambda: threading.current_thread() is threading.main_thread(), 20) is False


async def test_what_is_raised_there_is_raised_here() -> None:
    def fails() -> None:
        raise OSError("gone")

    with pytest.raises(OSError, match="gone"):
        await in_time(fails, 20)


def test_a_question_that_hangs_is_given_up_and_does_not_keep_the_program_from_ending() -> None:
    told = subprocess.run([sys.executable, "-c", HANGS], capture_output=True, text=True, timeout=60)
    assert (told.stdout, told.stderr, told.returncode) == ("given up\n", "", 0)
