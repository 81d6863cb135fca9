"""One thread a test process, so that processes side by side do not fight over the cores."""

from __future__ import annotations

import os
from importlib.util import find_spec

os.environ.setdefault("OMP_NUM_THREADS", "1")

if find_spec("torch") is None:
    # The data half is installed and tested without torch: pip install "fidediff[model]".
    collect_ignore_glob = ["test_*.py"]
else:
    import torch

    torch.set_num_threads(1)
