"""LeNet on CIFAR-10 as a DVC workflow that reruns to the bit."""

import os

# OpenMP reads these when torch is loaded. With fewer threads than train.threads, some of torch's kernels wait for ever.
for _name in ("OMP_DYNAMIC", "OMP_MAX_ACTIVE_LEVELS", "OMP_THREAD_LIMIT"):
    os.environ.pop(_name, None)
