"""torchvision as a reference for tests, also beside a torch without its compiled operators.

torchvision's wheels from the package index are built for CUDA. Beside a CPU-only torch their operator library
does not load, and the import fails at `nms`. The transforms need no operator: the names alone are enough.
"""

import sys
import warnings

_libraries = []  # a Library takes its operators back when it is collected


def import_torchvision():
    """The torchvision module, with `transforms` imported."""
    import torch

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            import torchvision
        except RuntimeError:
            for name in [name for name in sys.modules if name.split(".")[0] == "torchvision"]:
                del sys.modules[name]
            library = torch.library.Library("torchvision", "DEF")
            library.define("nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
            library.define("qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
            _libraries.append(library)
            import torchvision
        import torchvision.transforms
    return torchvision
