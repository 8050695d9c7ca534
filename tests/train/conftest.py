"""Pictures of runs are not drawn, which took a third of a run, unless a module has DRAWN = True."""

import pytest
from PIL import Image


@pytest.fixture(scope="module", autouse=True)
def undrawn_pictures(request):
    """Let figures be saved as a PNG of one pixel."""
    from matplotlib.figure import Figure

    with pytest.MonkeyPatch.context() as patch:
        if not getattr(request.module, "DRAWN", False):
            patch.setattr(Figure, "savefig", lambda self, file, **how: Image.new("RGB", (1, 1)).save(file, "PNG"))
        yield
