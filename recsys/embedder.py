"""Words and pictures → vectors of one release's space: a query's, and those of items that came after the night.

The only part of serving that needs torch, so everything here is loaded on first use and kept: encoders by their
configuration (a new release mostly has the same), the aligner by release.
"""

import logging
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import numpy.typing as npt

from recsys.errors import EncoderError
from recsys.histories import Float32

if TYPE_CHECKING:
    from recsys.alignment.modality import Modality
    from recsys.alignment.model import Aligner
    from recsys.alignment.spaces import LikenessSpace
    from recsys.encoders import ImageEncoder, TextEncoder
RETRY_SECONDS = 60.0  # after encoders that could not be loaded: reading 100 MB at every query helps nobody

logger = logging.getLogger(__name__)
T = TypeVar("T")


@dataclass(frozen=True)
class Review:
    """One review, as far as its words count."""

    text: str
    rating: float | None
    helpful_votes: int
    age_days: float


@dataclass(frozen=True)
class Content:
    """What an item looks like and says.

    Attributes:
        text: of item_text(), None where there is nothing to say.
        picture: file of the first picture, None where there is none.
        reviews: those that count, in any order.
        row: in the release, None where the item is new to it; what only the night knows of an item is found there.
    """

    text: str | None = None
    picture: Path | None = None
    reviews: Sequence[Review] = ()
    row: int | None = None


@dataclass(frozen=True)
class Embedded:
    """Vectors of m items.

    Attributes:
        fused: float32 [m, d], unit norm or zero.
        parts: modality → float16 [m, d], what it adds to ``fused``.
        spaces: "image" and "text" → float16 [m, d'], as far as the release keeps them.
        hubs: what may be asked with → float32 [m]; see recsys/alignment/hubs.py.
        failures: position → why its picture could not be read.
    """

    fused: Float32
    parts: Mapping[str, npt.NDArray[np.float16]] = field(default_factory=dict)
    spaces: Mapping[str, npt.NDArray[np.float16]] = field(default_factory=dict)
    hubs: Mapping[str, Float32] = field(default_factory=dict)
    failures: Mapping[int, str] = field(default_factory=dict)


@dataclass(frozen=True)
class _Opened:
    """What a release's folder holds: the aligner as trained, the same halved, spaces of likeness, what is carried."""

    items: "Aligner"
    questions: "Aligner"
    spaces: "Mapping[str, LikenessSpace]"
    carried: Mapping[str, npt.NDArray[Any]]


class Embedder:
    """Embeds for one release; safe to use from several threads.

    Args:
        folder: of the release; ``aligner/`` in it holds the heads.
        config: of its manifest, which names the encoders.
    """

    def __init__(self, folder: Path, config: Mapping[str, Any]) -> None:
        self._folder = folder / "aligner"
        self._config = config
        self._opening = threading.Lock()
        self._opened: _Opened | None = None
        self._refused: dict[str, tuple[str, float]] = {}  # part → why, when (monotonic seconds)
        self._warming: threading.Thread | None = None

    def warm_in_background(self) -> None:
        """Start :meth:`warm` in a thread of its own; what it cannot load is logged."""
        if self._warming is None:
            self._warming = threading.Thread(target=self._warm_or_say_why, name="warm-encoders", daemon=True)
            self._warming.start()

    def wait(self, seconds: float) -> bool:
        """Wait at most so long for the warming to end; True where none is under way."""
        if self._warming is not None:
            self._warming.join(seconds)
        return self._warming is None or not self._warming.is_alive()

    def _warm_or_say_why(self) -> None:
        started = time.perf_counter()
        try:
            self.warm()
            logger.info("the encoders are loaded, in %.1f s", time.perf_counter() - started)
        except Exception:  # whatever broke, search answers by words alone
            logger.exception("the encoders could not be loaded; search answers by words alone")

    def warm(self) -> None:
        """Load everything and run it once, so that the first query waits for nothing.

        Raises:
            RecsysError: something is missing.
        """
        self.embed_query("warm", None)
        if "image" in self._aligners.items.shape.modalities:
            encoder = self._image_encoder()
            encoder.encode(np.zeros((1, encoder.size, encoder.size, 3), np.uint8))

    def embed_query(self, text: str | None, picture: bytes | None) -> Float32:
        """One unit-norm vector, float32 [d], comparable with the items of the release by inner product.

        Args:
            text: what is looked for, in words.
            picture: the bytes of a picture of it; both together are fused as an item's would be.

        Raises:
            UnreadableImage: ``picture`` is none that we accept.
            EncoderError: the release cannot embed what was asked, or its encoders are missing.
        """
        aligner = self._aligners.questions
        found: dict[str, Float32] = {}
        if text is not None and "text" in aligner.shape.modalities:
            found["text"] = _unit(self._text_encoder().encode([text]))
        if picture is not None and "image" in aligner.shape.modalities:
            encoder = self._image_encoder()
            with _decoding:
                pixels = encoder.prepare(picture)
            found["image"] = _unit(encoder.encode(pixels[None]))
        if not found:
            asked = " and ".join(what for what, given in (("words", text), ("pictures", picture)) if given is not None)
            raise EncoderError(
                f"expected a release that knows {asked}, its aligner has {list(aligner.shape.modalities)}"
            )
        if len(found) == 1:
            (name, vectors), *_ = found.items()
            placed = aligner.embed_words(vectors) if name == "text" else aligner.embed_modality(name, vectors)
            return np.asarray(placed[0], np.float32)
        from recsys.alignment.modality import Modality

        present = np.ones(1, bool)
        both = {name: Modality(vectors, present) for name, vectors in found.items()}
        return np.asarray(aligner.embed(both)[0], np.float32)

    def embed_items(self, contents: Sequence[Content]) -> Embedded:
        """Embed items as the night does; one whose picture cannot be read goes without it.

        Raises:
            RecsysError: the encoders or the aligner are missing.
        """
        from recsys.alignment.carried import carried_to
        from recsys.alignment.spaces import embedding_parts

        opened = self._aligners
        aligner, spaces = opened.items, opened.spaces
        modalities, failures = self._encode(contents, aligner.shape.modalities)
        rows = np.array([-1 if content.row is None else content.row for content in contents], np.int64)
        modalities |= {name: carried_to(vectors, rows) for name, vectors in opened.carried.items()}
        if not modalities:
            return Embedded(np.zeros((len(contents), aligner.dim), np.float32))
        fused = aligner.embed(modalities)
        return Embedded(
            fused=fused,
            hubs=aligner.hubness(fused),
            parts=embedding_parts(aligner, modalities),
            spaces={name: spaces[name].place(modalities[name]) for name in spaces if name in modalities},
            failures=failures,
        )

    def _encode(
        self, contents: Sequence[Content], wanted: Mapping[str, int]
    ) -> tuple[dict[str, "Modality"], dict[int, str]]:
        from recsys.alignment.modality import Modality
        from recsys.encoders import encode_images, encode_texts

        made: dict[str, Modality] = {}
        failures: dict[int, str] = {}
        texts = [content.text for content in contents]
        pictures = [content.picture for content in contents]
        if "text" in wanted and any(texts):
            encoded = encode_texts(texts, self._text_encoder(), None, progress=False, threads=1)
            made["text"] = Modality(encoded.vectors, encoded.present)
        if "image" in wanted and any(pictures):
            encoded = encode_images(pictures, self._image_encoder(), None, progress=False, threads=1)
            failures = dict(encoded.failures)
            made["image"] = Modality(encoded.vectors, encoded.present)
        if "reviews" in wanted and any(content.reviews for content in contents):
            made["reviews"] = self._pooled_reviews(contents)
        return {name: modality for name, modality in made.items() if modality.present.any()}, failures

    def _pooled_reviews(self, contents: Sequence[Content]) -> "Modality":
        from recsys.alignment.reviews import ReviewConfig, pool_reviews
        from recsys.encoders import encode_texts

        said = [(row, review) for row, content in enumerate(contents) for review in content.reviews]
        encoded = encode_texts([review.text for _, review in said], self._text_encoder(), None, False, threads=1)
        ratings = [np.nan if review.rating is None else review.rating for _, review in said]
        return pool_reviews(
            encoded.vectors,
            np.where(encoded.present, [row for row, _ in said], -1).astype(np.int32),
            len(contents),
            np.array(ratings, np.float32),
            np.array([review.helpful_votes for _, review in said], np.int32),
            np.array([review.age_days for _, review in said], np.float32),
            ReviewConfig(**self._config.get("reviews", {})),
        )

    @property
    def _aligners(self) -> "_Opened":
        return self._loaded("aligner", self._open)

    def _loaded(self, part: str, load: Callable[[], T]) -> T:
        """``load()``, unless it failed a moment ago."""
        why, when = self._refused.get(part, ("", float("-inf")))
        if time.monotonic() - when < RETRY_SECONDS:
            raise EncoderError(f"not tried again yet: {why}")
        try:
            return load()
        except Exception as error:
            self._refused[part] = (str(error), time.monotonic())
            raise

    def _open(self) -> "_Opened":
        with self._opening:
            if self._opened is None:
                if not self._folder.is_dir():
                    raise EncoderError(f"{self._folder}: expected an aligner, this release has none")
                from recsys.alignment.carried import load_carried
                from recsys.alignment.model import load_aligner
                from recsys.alignment.spaces import load_spaces

                aligner = load_aligner(self._folder)
                self._opened = _Opened(aligner, aligner.halved(), load_spaces(self._folder), load_carried(self._folder))
            return self._opened

    def _text_encoder(self) -> "TextEncoder":
        from recsys.encoders import TextEncoderConfig

        return self._loaded("text", lambda: _text_encoder(TextEncoderConfig(**self._named("text_encoder"))))

    def _image_encoder(self) -> "ImageEncoder":
        from recsys.encoders import ImageEncoderConfig

        return self._loaded("image", lambda: _image_encoder(ImageEncoderConfig(**self._named("image_encoder"))))

    def _named(self, which: str) -> Mapping[str, Any]:
        try:
            named: Mapping[str, Any] = self._config[which]
        except KeyError:
            raise EncoderError(f"expected a release whose manifest names its {which}, this one does not") from None
        return named


_decoding = threading.Lock()  # one picture at a time: the largest that we accept take 200 MB
_loading = threading.Lock()  # two threads that come first would otherwise load the same network twice


@lru_cache(maxsize=2)
def _load_text_encoder(config: Any) -> "TextEncoder":
    from recsys.encoders import load_text_encoder

    return load_text_encoder(config)


@lru_cache(maxsize=2)
def _load_image_encoder(config: Any) -> "ImageEncoder":
    from recsys.encoders import load_image_encoder

    return load_image_encoder(config)


def _text_encoder(config: Any) -> "TextEncoder":
    with _loading:
        return _load_text_encoder(config)


def _image_encoder(config: Any) -> "ImageEncoder":
    with _loading:
        return _load_image_encoder(config)


def _unit(vectors: Float32) -> Float32:
    """As the night's encodings are: float16's rounding, unit norm."""
    rounded = vectors.astype(np.float16).astype(np.float32)
    norms = np.linalg.norm(rounded, axis=1, keepdims=True)
    if not (np.isfinite(norms).all() and (norms > 0).all()):
        raise EncoderError("the network gave a vector that is not finite, or zero")
    return np.asarray(rounded / norms, np.float32)
