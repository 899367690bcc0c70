"""The aligner: every modality of an item projected into one unit-norm space, and fused there.

An aligner is a small ensemble. Each member has a head per modality and a fusion of its own; the members' unit-norm
outputs are laid side by side and compressed to ``dim`` by one linear map that all modalities share, so everything stays
in one space. One further member is linear and computed, see train_alignment(). Independent members disagree where they
are unsure, and their sum ranks better than any one of them at no cost to whoever searches: the vector that leaves is
``dim`` wide.
"""

import copy
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from recsys.alignment.ensemble import Ensemble, Member, Shape
from recsys.alignment.hubs import BANK, hubness
from recsys.alignment.modality import Modality
from recsys.errors import ReleaseError, SchemaError

__all__ = ["Aligner", "Member", "Modality", "Shape", "load_aligner", "torch_threads"]

WORDS = ("text", "reviews")  # modalities of words, both read by the text encoder
ASKED = "asked."  # before the names of the banks among the saved weights
CHUNK = 4096  # rows embedded at once: bounds memory, not the result


@contextmanager
def torch_threads(threads: int | None) -> Iterator[None]:
    """Run torch on this many threads inside the block; None leaves it as it is."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)


class Aligner:
    """Projects each modality, and any subset of them fused, into one unit-norm space of ``dim`` dimensions.

    Attributes:
        dim: width of the space.
        history: one entry per epoch and member: {"member", "epoch", "loss" (training, nats), "quality" (held-out mean
            reciprocal rank)}.
        asked: "image" and "text" → unit norm float32 [b, dim], questions of that kind as they lie in the space: what
            its items look like, and what is said of them. See :meth:`hubness`.
    """

    def __init__(
        self,
        ensemble: Ensemble,
        history: list[dict[str, float]],
        asked: Mapping[str, NDArray[np.float32]] | None = None,
    ) -> None:
        self.ensemble = ensemble.eval()
        self.history = history
        self.asked = dict(asked or {})
        self.shape = ensemble.shape
        self.dim = ensemble.shape.dim

    def embed(self, modalities: Mapping[str, Modality], threads: int | None = None) -> NDArray[np.float32]:
        """Fuse what each item has.

        Args:
            modalities: any of the aligner's modalities, all with the same number of rows. One that is left out counts
                as absent for every item.
            threads: torch threads to use; None leaves the setting as it is.

        Returns:
            float32 [n, dim], unit norm; a zero row where no modality is present.

        Raises:
            SchemaError: an unknown modality, a wrong width, or row counts that differ.
        """
        n_rows = {len(modality) for modality in modalities.values()}
        if len(n_rows) != 1:
            raise SchemaError(f"embed: expected modalities of one and the same length, came {sorted(n_rows)}")
        for name, modality in modalities.items():
            self._check(name, modality.vectors)
        n = n_rows.pop()
        present = np.stack(
            [modalities[name].present if name in modalities else np.zeros(n, bool) for name in self.shape.modalities],
            axis=1,
        )
        embedded = np.zeros((n, self.dim), np.float32)
        with torch_threads(threads), torch.inference_mode():
            for start in range(0, n, CHUNK):
                rows = slice(start, start + CHUNK)
                here = torch.from_numpy(present[rows])
                inputs = {
                    name: self._components(name, modalities[name].vectors[rows], here[:, position])
                    for position, name in enumerate(self.shape.modalities)
                    if name in modalities
                }
                embedded[rows] = (self.ensemble.embed(inputs, here) * here.any(dim=1, keepdim=True)).numpy()
        return embedded

    def embed_modality(
        self, name: str, vectors: NDArray[np.float32], threads: int | None = None
    ) -> NDArray[np.float32]:
        """Project one modality's vectors, such as a query's picture or text.

        Args:
            name: one of the aligner's modalities.
            vectors: float32 [n, width of that modality].
            threads: torch threads to use; None leaves the setting as it is.

        Returns:
            float32 [n, dim], unit norm, comparable by inner product with every other output of this aligner.

        Raises:
            SchemaError: an unknown modality or a wrong width.
        """
        self._check(name, vectors)
        embedded = np.empty((len(vectors), self.dim), np.float32)
        with torch_threads(threads), torch.inference_mode():
            for start in range(0, len(vectors), CHUNK):
                rows = slice(start, start + CHUNK)
                embedded[rows] = self.ensemble.project(name, self._components(name, vectors[rows], None)).numpy()
        return embedded

    def embed_words(self, vectors: NDArray[np.float32], threads: int | None = None) -> NDArray[np.float32]:
        """Embed texts that may say what a description says or what a review says, such as a shopper's query.

        Each is read both ways, where the aligner knows both and they have one encoder (vectors of one width), and the
        two readings are fused. Reviewers use other words than shops, and speak of what no description mentions.

        Args:
            vectors: float32 [n, width of the text modality].
            threads: as in :meth:`embed`.

        Returns:
            float32 [n, dim], unit norm.

        Raises:
            SchemaError: the aligner knows no words, or a wrong width.
        """
        width = self.shape.modalities.get("text", self.shape.modalities.get("reviews"))
        names = [name for name in WORDS if self.shape.modalities.get(name) == width is not None]
        if not names:
            raise SchemaError(f"expected an aligner that knows words, came one of {list(self.shape.modalities)}")
        if len(names) == 1:  # nothing to fuse
            return self.embed_modality(names[0], vectors, threads)
        there = np.ones(len(vectors), bool)
        return self.embed({name: Modality(vectors, there) for name in names}, threads)

    def halved(self) -> "Aligner":
        """The same with the heads' weights in float16, for questions: their vectors differ in the third digit.

        What one question costs is to read the weights, once each; half as many bytes take less than half the time.
        """
        ensemble = copy.deepcopy(self.ensemble)
        for member in ensemble.each_member():
            member.heads.half()
        return Aligner(ensemble, self.history, self.asked)

    def know_questions(self, modalities: Mapping[str, Modality], rows: NDArray[np.int64], seed: int) -> None:
        """Keep a bank of questions, drawn from what the items of ``rows`` look like and what is said of them."""
        order = np.random.default_rng(seed).permutation(rows)
        for name in ("image", "text"):
            if name in modalities:
                some = np.sort(order[modalities[name].present[order]][:BANK])
                vectors = np.asarray(modalities[name].vectors[some], np.float32)
                self.asked[name] = self.embed_words(vectors) if name == "text" else self.embed_modality(name, vectors)

    def hubness(self, vectors: NDArray[np.float32]) -> dict[str, NDArray[np.float32]]:
        """How near vectors of this space lie to questions of each kind at all; see recsys/alignment/hubs.py.

        Args:
            vectors: unit norm or zero, float32 [n, dim].

        Returns:
            "image" and "text", as far as there is a bank of them → float32 [n].
        """
        return {name: hubness(vectors, asked) for name, asked in self.asked.items()}

    def _check(self, name: str, vectors: NDArray[np.float32]) -> None:
        width = self.shape.modalities.get(name)
        if width is None:
            raise SchemaError(f"expected one of the modalities {list(self.shape.modalities)}, came {name!r}")
        if vectors.ndim != 2 or vectors.shape[1] != width:
            raise SchemaError(f"modality {name!r}: expected vectors [n, {width}], came {vectors.shape}")

    def _components(self, name: str, vectors: NDArray[np.float32], present: Tensor | None) -> Tensor:
        raw = torch.from_numpy(np.array(vectors, dtype=np.float32))
        if present is not None:
            raw[~present] = 0.0  # what stands in an absent row is never read, not even a NaN
        return self.ensemble.components(name, raw)

    def save(self, path: Path | str) -> None:
        """Write ``aligner.safetensors`` and ``aligner.json`` into the directory ``path``."""
        folder = Path(path)
        folder.mkdir(parents=True, exist_ok=True)
        weights = {name: tensor.contiguous() for name, tensor in self.ensemble.state_dict().items()}
        weights |= {ASKED + name: torch.from_numpy(vectors) for name, vectors in self.asked.items()}
        save_file(weights, str(folder / "aligner.safetensors"))
        # as lists: the order of the modalities is the order of the tokens
        shape = self.shape.__dict__ | {
            "modalities": list(self.shape.modalities.items()),
            "concepts": list(self.shape.concepts.items()),
        }
        text = json.dumps({"shape": shape, "history": self.history}, indent=1)
        (folder / "aligner.json").write_text(text + "\n", encoding="utf-8")


def load_aligner(path: Path | str) -> Aligner:
    """Read what :meth:`Aligner.save` wrote; embeds bit for bit as the one that was saved.

    Raises:
        ReleaseError: a file is missing, or does not hold what the other one says.
    """
    folder = Path(path)
    try:
        about = json.loads((folder / "aligner.json").read_text(encoding="utf-8"))
        given = about["shape"]
        concepts = {name: (sizes[0], sizes[1]) for name, sizes in given.get("concepts", [])}
        shape = Shape(**given | {"modalities": dict(given["modalities"]), "concepts": concepts})
        ensemble = Ensemble(shape)
        weights = load_file(str(folder / "aligner.safetensors"))
        asked = {
            name.removeprefix(ASKED): weights.pop(name).numpy() for name in list(weights) if name.startswith(ASKED)
        }
        ensemble.load_state_dict(weights)
        return Aligner(ensemble, about["history"], asked)
    except (OSError, KeyError, TypeError, ValueError, RuntimeError, SafetensorError) as error:
        raise ReleaseError(
            f"{folder}: expected a saved aligner (aligner.json, aligner.safetensors): {error}"
        ) from error
