"""The load of others: exact on made clocks, and a real busy process is seen where an own child is not."""

import os
import subprocess
import sys
import time

import pytest

from tests.benchmarks.load import Others, busy_seconds, own_seconds

BUSY_FOR_A_SECOND = "import time\nend = time.monotonic() + 1\nwhile time.monotonic() < end: pass"


def test_others_keep_busy_what_this_process_and_its_children_do_not():
    now, everyone, own = [0.0], [100.0], [10.0]
    others = Others(lambda: now[0], lambda: everyone[0], lambda: own[0])
    now[0], everyone[0], own[0] = 10.0, 120.0, 15.0  # 20 s of work in 10 s, 5 s of it one's own
    assert others.busy_cores() == 1.5
    now[0], everyone[0], own[0] = 14.0, 128.0, 23.5  # clocks of different grain: never below zero
    assert others.busy_cores() == 0
    assert others.busy_cores() == 0  # no time went by
    everyone[0] = 0.0
    assert others.busy_cores() is None  # the system does not count


def test_the_work_of_a_child_is_ones_own_while_it_runs_and_after():
    before = own_seconds()
    with subprocess.Popen([sys.executable, "-c", BUSY_FOR_A_SECOND]) as child:
        time.sleep(0.9)
        running = own_seconds() - before
        child.wait()
    assert running > 0.1  # on a busy machine it gets less than its second
    assert own_seconds() - before >= running


@pytest.mark.skipif(busy_seconds() == 0, reason="the system does not tell what its cores do")
def test_what_the_cores_do_is_at_least_what_this_process_does():
    everyone, own = busy_seconds(), time.process_time()
    end = time.monotonic() + 0.5
    while time.monotonic() < end:
        pass
    assert busy_seconds() - everyone >= time.process_time() - own - 0.05  # the system counts in hundredths


@pytest.mark.skipif(busy_seconds() == 0, reason="the system does not tell what its cores do")
@pytest.mark.skipif(os.name == "nt", reason="needs a process that is nobody's child")
def test_a_process_of_somebody_else_is_seen():
    others = Others()
    orphan = f"import os, subprocess, sys; subprocess.Popen([sys.executable, '-c', {BUSY_FOR_A_SECOND!r}])"
    subprocess.run([sys.executable, "-c", orphan], check=True)
    time.sleep(0.9)
    assert others.busy_cores() > 0.1
