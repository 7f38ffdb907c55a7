"""A fresh process ends when it is no longer wanted: when its block is left by an exception, and when its owner is killed."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from concurrent.futures.process import BrokenProcessPool

import pytest

from nas.processes import fresh_process


def test_an_exception_ends_the_work() -> None:
    with pytest.raises(KeyboardInterrupt), fresh_process() as pool:
        assert pool.submit(os.getpid).result() != os.getpid()
        work = pool.submit(time.sleep, 60)
        raise KeyboardInterrupt
    assert isinstance(work.exception(), BrokenProcessPool)


def test_no_process_outlives_its_owner() -> None:
    code = (
        "import os, time; from nas.processes import fresh_process\n"
        "with fresh_process() as pool:\n"
        "    pool.submit(os.getpid).result(); work = pool.submit(time.sleep, 600)\n"
        "    print('at work', flush=True); work.result()"
    )
    owner = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert owner.stdout is not None and owner.stdout.readline() == "at work\n"
    owner.kill()
    owner.communicate(timeout=60)  # ends when the last process that holds its output is gone
