"""Full training of one architecture, from its weights to an export that is worth deploying.

What it rests on. Processes, devices, mixed precision and gradient averaging are Lightning Fabric's
(`pip install 'gcsearch[train]'`): it is maintained, leaves the loop to its caller, keeps no state
of the process's, and gives no warnings with torch 2.14. Hugging Face's accelerate was tried as
well, and left out: its state is one for the process, so a second training with another precision
is refused, and its checkpoints are folders written in place. Of Fabric's own checkpoints no use is
made either: it drafts them in the system's temporary folder, from where a move to another disk is
no single step, and leaves the state of the gradient scaler out. So the checkpoint is a file of our
own, replaced at once and read back without unpickling, and with it come the order of the pictures
and the continuation, which no trainer does to the bit.

The pictures are those of a proxy task: decoded and held as bytes, 150 KB each at 224 px, so that
100 000 of them take 15 GB of memory (once for all processes of a machine where they come from the
cache of decoded pictures). Beyond what memory holds, take the exported network elsewhere:
``gcsearch.build`` returns an ordinary module.
"""

from gcsearch.training.events import EpochResult, TrainingListener
from gcsearch.training.full import Trained, train
from gcsearch.training.settings import FullTrainingSettings

__all__ = ["EpochResult", "FullTrainingSettings", "Trained", "TrainingListener", "train"]
