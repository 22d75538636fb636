"""bitreplay: learning on the device with binary neural networks.

A camera device carries a network whose weights and activations are one bit each.  Shown something new, it learns on the spot, in a
memory whose size is known in advance; it sends nothing anywhere and survives a power cut.  The default head is computed from exact
sums, so lessons one after another give the same head as one big lesson (near-equal pictures aside: docs/method.md, 4 and 5.1).

>>> import numpy as np
>>> from bitreplay import Learner, Settings
>>> learner = Learner(settings=Settings(capacity=100))
>>> photos = np.random.default_rng(0).integers(0, 256, (20, 32, 32, 3), dtype=np.uint8)
>>> photos[:10] //= 2  # of mugs in the dark
>>> learner.learn(photos, ["mug"] * 10 + ["spoon"] * 10)
>>> learner.names
['mug', 'spoon']
>>> learner.predict(photos[:1]).names
['mug']
"""

from ._engine import Cancelled
from .datasets.pictures import PictureFiles, load_pictures
from .errors import FormatError
from .learner import Answer, Learner, Prediction
from .model import Model
from .settings import Settings, TailSettings
from .store import StateFile

__version__ = "0.1.0"
__all__ = [
    "Answer",
    "Cancelled",
    "FormatError",
    "Learner",
    "Model",
    "PictureFiles",
    "Prediction",
    "Settings",
    "StateFile",
    "TailSettings",
    "__version__",
    "load_pictures",
]
