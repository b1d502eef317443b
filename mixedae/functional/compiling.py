"""``is_compiling()``: is ``torch.compile`` tracing this? Before PyTorch 2.3 nobody says, and the answer is False."""

import torch

is_compiling = getattr(torch.compiler, 'is_compiling', bool)
