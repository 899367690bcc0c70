"""Import torchvision where torch is a CPU build and torchvision comes from PyPI.

timm and transformers import torchvision. PyPI's build of it carries compiled operators for PyPI's build of torch;
beside the CPU build they do not load, and its import stops at «operator torchvision::nms does not exist». Nothing here
detects boxes, so declaring the two operators without a body is enough for the import to go through.
"""

import importlib
import sys
from typing import Any, cast

_kept_alive: list[object] = []


def import_torchvision() -> None:
    """Make ``import torchvision`` work, if it does not already; call before timm or transformers models load."""
    try:
        importlib.import_module("torchvision")
    except ImportError:
        return  # not installed: transformers does without
    except RuntimeError as error:
        if "torchvision::nms" not in str(error):
            raise
        import torch

        for name in [name for name in sys.modules if name.partition(".")[0] == "torchvision"]:
            del sys.modules[name]
        library: Any = cast(Any, torch.library.Library)("torchvision", "DEF")
        for operator in ("nms", "qnms"):
            library.define(f"{operator}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        _kept_alive.append(library)
        importlib.import_module("torchvision")
