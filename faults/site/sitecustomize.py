"""Faults inside a server or worker that the suite starts; Python imports this before anything else.

FAULTS_CLOCK names a file with seconds that the clock of this process is off by, read again at each look,
so that the suite turns the clock while the process works; no system clock is touched. FAULTS_MEMORY names a
file that holds "<kind> <n>": from its n-th tensor on, a worker's allocator says "memory" (out of it) or
"device" (lost), and a file of the same name that ends in .struck tells that it did.
"""

import os
import sys


def _turn_the_clock(file):
    import time

    import psutil

    def off():
        try:
            with open(file) as lines:
                return float(lines.read())
        except (OSError, ValueError):
            return 0.0

    real, booted = time.time, psutil._psplatform.boot_time
    time.time = lambda: real() + off()
    # Setting a clock moves the time of boot too, which is the clock less the time since.
    psutil._psplatform.boot_time = lambda: booted() + off()


def _refuse_memory(file):
    with open(file) as lines:
        kind, count = lines.read().split()
    os.unlink(file)  # the next worker has its device again

    import torch
    from torch.utils._python_dispatch import TorchDispatchMode

    class Refusing(TorchDispatchMode):
        left = int(count)

        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            self.left -= 1
            if self.left < 0:
                with open(os.path.splitext(file)[0] + ".struck", "w"):
                    pass
                if kind == "memory":
                    self.left = int(count)  # one tensor was too large; the next may fit
                    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
                raise torch.AcceleratorError("CUDA error: unspecified launch failure")
            return func(*args, **(kwargs or {}))

    Refusing().__enter__()


if os.environ.get("FAULTS_CLOCK"):
    _turn_the_clock(os.environ["FAULTS_CLOCK"])
_file = os.environ.get("FAULTS_MEMORY", "")
if os.path.exists(_file) and "kpop.worker" in sys.orig_argv:
    _refuse_memory(_file)
