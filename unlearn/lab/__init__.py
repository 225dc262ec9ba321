"""The bundled world and the models trained on it: forgetting with known ground truth.

Importing this package makes ``lab:full``, ``lab:reference`` and ``lab:reference-2`` loadable.
"""

from unlearn.lab.bundled import model_path
from unlearn.model.language_model import SCHEMES

SCHEMES["lab"] = model_path
