"""Data and metrics for the patched scripts, from local files and without a network.

:func:`load_dataset` and :data:`evaluate` take the places of ``datasets.load_dataset`` and of the module
``evaluate`` in a script. What the originals can do unaided, they still do, with the same result bit for bit.
On top of that comes what a machine without a network needs: SQuAD's nested JSON, benchmark folders on disk,
our own metric modules, and one clear line where something on the hub is out of reach.
"""

from nncf_transformers.data.files import sha256_of
from nncf_transformers.data.loading import dataset_name, load_dataset, set_local_data
from nncf_transformers.data.metric_loading import evaluate
from nncf_transformers.data.squad import SquadExample, read_squad

__all__ = [
    "SquadExample",
    "dataset_name",
    "evaluate",
    "load_dataset",
    "read_squad",
    "set_local_data",
    "sha256_of",
]
