"""AlignmentConfig: which method aligns, and with what numbers."""

from dataclasses import dataclass

from recsys.alignment.fusion import FUSIONS
from recsys.errors import ConfigError, require_at_least, require_positive, require_share

CONTRASTIVE = ("info_nce", "siglip")
TRAINED = (*CONTRASTIVE, "regression", "clusters")  # by gradient descent, in an ensemble
CLOSED_FORM = ("cca", "similarity", "conse")
METHODS = TRAINED + CLOSED_FORM


@dataclass(frozen=True)
class AlignmentConfig:
    """What alignment does; the defaults were chosen on a validation split of real products.

    Methods: ``info_nce`` and ``siglip`` are contrastive; ``regression`` maps every modality onto the words;
    ``clusters`` agrees on prototypes only; ``cca`` finds correlated directions; ``similarity`` joins encodings that
    share a space already (CLIP, SigLIP); ``conse`` names the classes in a picture and averages the names' encodings.
    The last three are computed, not trained: they know only ``dim`` and ``components`` and fuse by the mean. Only the
    contrastive two know ``linear``.
    """

    dim: int = 64  # of the item space
    method: str = "info_nce"  # one of METHODS
    fusion: str = "gated"  # a key of FUSIONS
    members: int = 4  # of the ensemble; time grows with it, the size of the item vectors does not
    hidden: int = 512  # width of a head's hidden layers
    linear: int = 128  # dimensions of a further member of linear maps, computed by CCA; 0: none. See train_alignment()
    components: int = 512  # principal components of a modality that its head reads, at most
    dropout: float = 0.1  # of those components
    noise: float = 0.2  # standard deviation added to each of them in training; their mean square is 1
    modality_dropout: float = 0.5  # chance that a modality is hidden from the fusion in training
    fusion_weight: float = 0.2  # of the loss between an item and itself with modalities hidden
    neighbour_weight: float = 1.5  # of the loss that keeps an item's neighbours when modalities are hidden
    behaviour_weight: float = 0.3  # of the loss between items bought together; 0 leaves purchases out
    hardness: float = 0.0  # of info_nce and siglip: how much more the nearest negatives count; 0 is not at all
    adversarial_weight: float = 0.0  # of the loss that hides from a critic which modality a vector is of
    prototypes: int = 256  # of clusters
    temperature: float = 0.1  # τ to start from; learned
    lr: float = 2e-3  # warmed up over the first steps, then held
    weight_decay: float = 0.5
    epochs: int = 25  # at most; one epoch sees every item once
    max_steps: int = 160  # a member, at most: a large catalogue needs fewer epochs
    batch_size: int = 1024
    patience: int = 5  # epochs without a better held-out quality before a member stops
    held_out: float = 0.1  # share of the items that early stopping watches, at most MAX_HELD_OUT of them

    def __post_init__(self) -> None:
        if self.method not in METHODS:
            raise ConfigError(f"alignment.method: expected one of {METHODS}, came {self.method!r}")
        if self.fusion not in FUSIONS:
            raise ConfigError(f"alignment.fusion: expected one of {tuple(FUSIONS)}, came {self.fusion!r}")
        positive = ("dim", "members", "hidden", "components", "prototypes", "epochs", "max_steps", "patience")
        require_at_least("alignment", self, batch_size=2, **dict.fromkeys(positive, 1))
        weights = ("fusion_weight", "neighbour_weight", "behaviour_weight", "adversarial_weight")
        require_at_least("alignment", self, linear=0, noise=0, hardness=0, weight_decay=0, **dict.fromkeys(weights, 0))
        require_share("alignment", self, "dropout", "modality_dropout", "held_out")
        require_positive("alignment", self, "temperature", "lr")
