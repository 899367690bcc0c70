"""ConSE: a picture named by a classifier, and put where the names of its likeliest classes lie among the words.

A joint space without any training: the image network carries a classifier of a thousand classes, the text network reads
their names, and a picture's place is the mean of the names' places, weighted by what the classifier thinks.

Source: Norouzi et al. 2014, "Zero-shot learning by convex combination of semantic embeddings", arXiv:1312.5650.
"""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

LIKELIEST = 10  # classes that a picture is named by


@dataclass(frozen=True, eq=False)
class Concepts:
    """What reads a modality's vectors as a mixture of named classes."""

    weight: NDArray[np.float32]  # [classes, width of the modality]: the classifier
    bias: NDArray[np.float32]  # [classes]
    names: NDArray[np.float32]  # [classes, width of the other modality]: encodings of the classes' names


class ConceptReader(nn.Module):
    """Vectors of one modality → vectors among another's: [n, width] → unit norm [n, width of the names].

    The vectors come at unit norm, where the classifier knew them at their full length, so what they are multiplied by
    (``sharpness``) is fitted with the aligner.
    """

    weight: Tensor
    bias: Tensor
    names: Tensor
    sharpness: Tensor

    def __init__(self, width: int, classes: int, names_width: int) -> None:
        super().__init__()
        self.register_buffer("weight", torch.zeros(classes, width))
        self.register_buffer("bias", torch.zeros(classes))
        self.register_buffer("names", torch.zeros(classes, names_width))
        self.register_buffer("sharpness", torch.ones(()))

    def fill(self, concepts: Concepts) -> None:
        """Take over a classifier and the encodings of its classes' names."""
        self.weight.copy_(torch.from_numpy(concepts.weight))
        self.bias.copy_(torch.from_numpy(concepts.bias))
        self.names.copy_(F.normalize(torch.from_numpy(concepts.names), dim=1))

    def forward(self, vectors: Tensor) -> Tensor:
        """[n, width] → unit norm [n, width of the names]; a zero row is read like any other."""
        logits = vectors @ self.weight.T * self.sharpness + self.bias
        best, which = logits.topk(min(LIKELIEST, logits.shape[1]), dim=1)
        shares = torch.softmax(best, dim=1)  # [n, likeliest]
        return F.normalize((shares.unsqueeze(2) * self.names[which]).sum(dim=1), dim=1)


def imagenet_names() -> list[str]:
    """The thousand classes of ImageNet in the order of a classifier's outputs, as timm names them."""
    from recsys.encoders.torchvision_shim import import_torchvision

    import_torchvision()
    from timm.data import ImageNetInfo

    classes = ImageNetInfo("imagenet-1k")
    return [str(classes.index_to_description(row)) for row in range(classes.num_classes())]
