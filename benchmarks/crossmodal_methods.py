"""What the cross-modal benchmark compares: every method of alignment and every fusion, the shipped default first."""

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.crossmodal_measures import blocks, most_alike
from recsys.alignment.concepts import Concepts
from recsys.alignment.fusion import FUSIONS
from recsys.alignment.graph import with_neighbours
from recsys.alignment.hubs import SHARE
from recsys.alignment.modality import Modality
from recsys.alignment.model import Aligner
from recsys.alignment.train import AlignmentConfig, train_alignment

Array = NDArray[np.float32]
Rows = NDArray[np.int64]
SIDES = ("image", "text")
NEIGHBOURS = 5  # of a product in the graph of like content
DEFAULT = AlignmentConfig()
# One objective by itself: one member, and no other term than its own.
ALONE = replace(
    DEFAULT, members=1, linear=0, fusion_weight=0.0, neighbour_weight=0.0, behaviour_weight=0.0, hardness=0.0
)
INFO_NCE, SIGLIP = ALONE, replace(ALONE, method="siglip")


@dataclass(frozen=True)
class Method:
    """How a row comes about.

    Attributes:
        config: of the training.
        single: one objective alone; the default is compared with the best of these.
        fused: both sides pass through the fusion, which a query of one modality usually need not.
        purchases: needs to know what was bought together.
        corrected: its row is the one with hubs taken back, as the shipped search does; those of the others are bare.
    """

    config: AlignmentConfig
    single: bool = False
    fused: bool = False
    purchases: bool = False
    corrected: bool = False


METHODS: dict[str, Method] = {
    "default": Method(DEFAULT, corrected=True),
    "default, neighbours free": Method(replace(DEFAULT, neighbour_weight=0.0), corrected=True),
    "default, without the linear member": Method(replace(DEFAULT, linear=0), corrected=True),
    "similarity": Method(replace(DEFAULT, method="similarity"), single=True),
    "ConSE": Method(replace(DEFAULT, method="conse"), single=True),
    "CCA": Method(replace(DEFAULT, method="cca"), single=True),
    "regression": Method(replace(ALONE, method="regression"), single=True),
    "clusters": Method(replace(ALONE, method="clusters"), single=True),
    "InfoNCE": Method(INFO_NCE, single=True),
    "SigLIP": Method(SIGLIP, single=True),
    "InfoNCE, hard negatives": Method(replace(INFO_NCE, hardness=0.2)),
    "SigLIP, hard negatives": Method(replace(SIGLIP, hardness=0.2)),
    "InfoNCE, adversary": Method(replace(INFO_NCE, adversarial_weight=0.1)),
    "SigLIP, adversary": Method(replace(SIGLIP, adversarial_weight=0.1)),
    "InfoNCE, behaviour": Method(replace(INFO_NCE, behaviour_weight=0.3), purchases=True),
    "SigLIP, behaviour": Method(replace(SIGLIP, behaviour_weight=0.3), purchases=True),
    **{
        f"fusion: {name}": Method(replace(DEFAULT, members=1, linear=0, behaviour_weight=0.0, fusion=name), fused=True)
        for name in FUSIONS
    },
}


@dataclass(frozen=True, eq=False)
class Material:
    """What all methods are given. The split is by product. :func:`load_material` reads what :meth:`save` wrote.

    Attributes:
        vectors: "image" and "text" → float32 [n, d], unit norm.
        fit, watch, test: rows.
        pairs: rows of products bought together, int32 [p, 2], empty where purchases are not known.
        concepts: what names the pictures' classes, where the image encoder has a classifier of ImageNet's.
    """

    vectors: Mapping[str, Array]
    fit: Rows
    watch: Rows
    test: Rows
    pairs: NDArray[np.int32]
    concepts: Mapping[str, Concepts]

    def needs(self, method: Method) -> str | None:
        """Why the method cannot be had with this material; None where it can."""
        if method.config.method == "similarity" and len({side.shape[1] for side in self.vectors.values()}) > 1:
            return "the encoders have no space in common"
        if method.config.method == "conse" and not self.concepts:
            return "the image encoder has no classifier"
        if method.purchases and not len(self.pairs):
            return "no purchases are given"
        return None

    def save(self, folder: Path) -> None:
        """Write each array into the folder, once for all the processes that will read it."""
        arrays: dict[str, NDArray[Any]]
        arrays = {"fit": self.fit, "watch": self.watch, "test": self.test, "pairs": self.pairs}
        arrays |= {f"vectors.{side}": vectors for side, vectors in self.vectors.items()}
        for side, concepts in self.concepts.items():
            arrays |= {f"concepts.{side}.{part}": array for part, array in vars(concepts).items()}
        for name, array in arrays.items():
            np.save(folder / f"{name}.npy", array)


def load_material(folder: Path) -> Material:
    """The arrays stay in their files, so that processes beside each other hold them in memory but once."""

    def array(name: str) -> NDArray[Any]:
        # Copied where it is written to, which nobody does: torch warns of arrays that cannot be written to at all.
        return np.asarray(np.load(folder / f"{name}.npy", mmap_mode="c"))

    read = [side for side in SIDES if (folder / f"concepts.{side}.weight.npy").exists()]
    parts = [field.name for field in fields(Concepts)]
    return Material(
        vectors={side: array(f"vectors.{side}") for side in SIDES},
        fit=array("fit"),
        watch=array("watch"),
        test=array("test"),
        pairs=array("pairs"),
        concepts={side: Concepts(**{part: array(f"concepts.{side}.{part}") for part in parts}) for side in read},
    )


@dataclass(frozen=True, eq=False)
class Answer:
    """The test products in the space: each side alone, and whole."""

    aligner: Aligner
    sides: Mapping[str, Array]  # "image" and "text" → unit norm [test, dim]
    whole: Array  # unit norm [test, dim]
    parts: Mapping[str, Array]  # side that is missing → unit norm [test, dim]
    hubs: Mapping[str, Array]  # side that is asked → what may be taken off the other's likeness, [test]


def answer(method: Method, material: Material, seed: int, threads: int) -> Answer:
    """Train on the fit products, stop by the watched ones, embed the test products."""
    graph = method.config.fusion == "graph"
    rows = np.concatenate([material.fit, material.watch])
    known = {name: _modality(material.vectors[name][rows]) for name in SIDES}
    place = np.full(len(material.vectors["image"]), -1, np.int32)
    place[rows] = np.arange(len(rows))
    pairs = place[material.pairs.reshape(-1, 2)]
    pairs = pairs[(pairs >= 0).all(axis=1)] if method.purchases else pairs[:0]
    n_fit = len(material.fit)
    fit = {name: known[name].vectors[:n_fit] for name in SIDES}
    if graph:
        edges = [nearest(known[name].vectors, fit[name], itself=True) for name in SIDES]
        known = with_neighbours(known, np.concatenate(edges))
    aligner = train_alignment(
        known,
        pairs,
        method.config,
        seed=seed,
        threads=threads,
        progress=False,
        held_out=np.arange(len(rows)) >= n_fit,
        concepts=material.concepts,
    )
    test = {name: material.vectors[name][material.test] for name in SIDES}

    def embed(*present: str) -> Array:
        given = {name: test[name] for name in present}
        return aligner.embed(_with_graph(given, fit) if graph else {name: _modality(v) for name, v in given.items()})

    alone = {name: embed(name) if method.fused else aligner.embed_modality(name, test[name]) for name in SIDES}
    return Answer(
        aligner=aligner,
        sides=alone,
        whole=embed(*SIDES),
        parts={name: embed(*(other for other in SIDES if other != name)) for name in SIDES},
        hubs={asked: SHARE * aligner.hubness(alone[other])[asked] for asked, other in (SIDES, SIDES[::-1])},
    )


def nearest(queries: Array, items: Array, itself: bool = False) -> NDArray[np.int32]:
    """Each query with its NEIGHBOURS most like items, int32 [q · NEIGHBOURS, 2]; ``itself``: query i is item i."""
    best = []
    for rows in blocks(len(queries)):
        likeness = queries[rows] @ items.T
        if itself:
            np.fill_diagonal(likeness[:, rows.start :], -np.inf)
        best.append(most_alike(likeness, NEIGHBOURS))
    found = np.concatenate(best)
    return np.column_stack([np.repeat(np.arange(len(queries)), found.shape[1]), found.ravel()]).astype(np.int32)


def _with_graph(given: Mapping[str, Array], fit: Mapping[str, Array]) -> dict[str, Modality]:
    """New products hang on the known ones that what is given of them is most like; they bring all they have."""
    n, n_fit = len(next(iter(given.values()))), len(next(iter(fit.values())))
    together = {
        name: Modality(
            np.concatenate([fit[name], given.get(name, np.zeros((n, fit[name].shape[1]), np.float32))]),
            np.concatenate([np.ones(n_fit, bool), np.full(n, name in given)]),
        )
        for name in fit
    }
    edges = np.concatenate([nearest(vectors, fit[name]) for name, vectors in given.items()])
    smoothed = with_neighbours(together, edges + np.array([[n_fit, 0]], np.int32))
    return {name: Modality(m.vectors[n_fit:], m.present[n_fit:]) for name, m in smoothed.items()}


def _modality(vectors: Array) -> Modality:
    return Modality(np.ascontiguousarray(vectors), np.ones(len(vectors), bool))
