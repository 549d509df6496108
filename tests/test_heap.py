"""Memory that a process gives back, seen in a process of its own."""

from __future__ import annotations

import json
import subprocess
import sys

PROGRAM = """
import json, re
from pathlib import Path
import numpy
from llmos import heap

def resident():
    return int(re.search(r"RssFile:\\s+(\\d+)", Path("/proc/self/status").read_text())[1])

before = resident()
heap.give_back_code()
after = resident()
total = float(numpy.linalg.inv(numpy.diag([1.0, 2.0, 4.0])).sum())
print(json.dumps([before, after, resident(), total]))
"""


def test_code_that_the_start_alone_needed_is_given_back_and_still_works() -> None:
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True)
    before, after, used, total = json.loads(done.stdout)
    assert after < before / 2 and after <= used
    assert total == 1.75
