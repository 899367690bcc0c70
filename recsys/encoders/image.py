"""Pictures → vectors: ``encode_images``, and the encoder that a service loads to embed one photo."""

import hashlib
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from recsys.encoders.cache import VectorCache
from recsys.encoders.encode import (
    Encoded,
    EncodedBatch,
    Job,
    encode_cached,
    fingerprint_of,
    parse_model_name,
    usable_cores,
)
from recsys.encoders.pictures import read_bytes, read_picture
from recsys.errors import UnreadableImage

if TYPE_CHECKING:
    from recsys.encoders.image_networks import ImageNetwork

PREPARATION = "square-1"  # part of the fingerprint: change it when prepare() gives other pixels


@dataclass(frozen=True)
class ImageEncoderConfig:
    """Which network, and how exactly it computes.

    Args:
        model: "efficientnet-lite0:layers" (its weights install with pip; without ":layers" its last features alone,
            which see less of colour and pattern), "timm:NAME", "hf:NAME", or a directory that timm or transformers
            wrote.
        precision: "auto" is bfloat16 where the CPU has it in hardware, else float32.
    """

    model: str = "efficientnet-lite0:layers"
    precision: str = "auto"


class ImageEncoder:
    """One loaded image network.

    Attributes:
        fingerprint: sha256 over weights, preparation and precision; equal fingerprints give equal vectors.
        name: as it was asked for.
        dim: length of a vector.
        size: side of its pictures, pixels.
        batch: pictures that it encodes fastest at a time.
        classifier: weight [classes, dim] and bias [classes] from vector to class logits, or None.
    """

    def __init__(self, network: "ImageNetwork", config: ImageEncoderConfig) -> None:
        from recsys.encoders import image_networks
        from recsys.encoders.weights import resolve_precision

        self._network = network
        self._networks = image_networks
        precision = resolve_precision(config.precision)
        self.name = config.model
        self.dim = network.dim
        self.size = network.size
        self.batch = image_networks.BATCH
        self.classifier = network.classifier
        self.description: dict[str, object] = {
            "weights_sha256": network.weights_sha256,
            "size": self.size,
            "mean": network.mean,
            "std": network.std,
            "resample": network.resample.name,
            "crop": network.crop,
            "preparation": PREPARATION,
            "precision": precision,
        }
        if network.pooling:
            self.description["pooling"] = network.pooling
        self.fingerprint = fingerprint_of(self.description)
        self._precision = precision
        self._model: Callable[[Any], Any] | None = None
        self._lock = Lock()

    def prepare(self, data: bytes) -> npt.NDArray[np.uint8]:
        """The bytes of a picture file → uint8 [size, size, 3].

        Raises:
            UnreadableImage: they are not a picture we accept.
        """
        picture = read_picture(data, self.size)
        return self._networks.fit_square(picture, self.size, self._network.resample, self._network.crop)

    def encode(self, pixels: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
        """Prepared pictures, uint8 [n, size, size, 3] → float32 [n, dim], as the network gives them."""
        with self._lock:
            if self._model is None:  # not before it is needed: a night may find everything in the cache
                self._model = self._networks.fast_image_model(self._network, self._precision)
        return self._networks.run_images(self._model, self._network, pixels)


def load_image_encoder(config: ImageEncoderConfig) -> ImageEncoder:
    """Load what ``config.model`` names.

    Raises:
        ConfigError: the name has no known form.
        EncoderError: the weights are missing, or not the expected ones.
    """
    from recsys.encoders.image_networks import IMAGE_NETWORKS
    from recsys.encoders.weights import one_thread

    scheme, name = parse_model_name(config.model, list(IMAGE_NETWORKS), otherwise="timm")
    with one_thread():
        return ImageEncoder(IMAGE_NETWORKS[scheme](name), config)


def encode_images(
    paths: Sequence[str | Path | None],
    config: ImageEncoderConfig | ImageEncoder,
    cache_dir: Path | None,
    progress: bool = True,
    threads: int | None = None,
) -> Encoded:
    """Vectors of picture files, from the cache where their content was seen before.

    The same files give the same bits, with however many threads: each batch is computed on one. A file's bits do not
    depend on those beside it either, as far as oneDNN treats the rows of a batch alike (tests/test_encoders.py asks).

    Args:
        paths: None or "" where an item has no picture.
        config: which encoder to load, or one that is loaded already.
        cache_dir: root of the cache; None keeps nothing.
        progress: show a bar.
        threads: batches computed at a time; None is one a core.
    Returns:
        One row a path; a file that is missing or no picture is absent and stands in ``failures``.
    """
    encoder = config if isinstance(config, ImageEncoder) else load_image_encoder(config)
    cache = VectorCache(cache_dir, encoder.fingerprint, encoder.dim, {"model": encoder.name, **encoder.description})
    failures: dict[int, str] = {}
    with ThreadPoolExecutor(threads or usable_cores()) as pool:
        keys = list(pool.map(lambda position: _digest(paths[position], position, failures), range(len(paths))))

    def job(positions: Sequence[int]) -> EncodedBatch:
        pixels = np.zeros((len(positions), encoder.size, encoder.size, 3), np.uint8)
        unreadable = {}
        for row, position in enumerate(positions):
            try:
                data = read_bytes(str(paths[position]))
                if hashlib.sha256(data).digest() != keys[position]:
                    raise UnreadableImage(f"{paths[position]} changed while it was encoded")
                pixels[row] = encoder.prepare(data)
            except UnreadableImage as error:
                unreadable[position] = str(error)
        return EncodedBatch(positions, encoder.encode(pixels), unreadable)

    def plan(missing: Sequence[int]) -> Iterator[Job]:
        for start in range(0, len(missing), encoder.batch):
            yield partial(job, missing[start : start + encoder.batch])

    return encode_cached(keys, plan, cache, failures, threads, "pictures" if progress else None)


def _digest(path: str | Path | None, position: int, failures: dict[int, str]) -> bytes | None:
    if path is None or path == "":
        return None
    try:
        return hashlib.sha256(read_bytes(path)).digest()
    except UnreadableImage as error:
        failures[position] = str(error)
        return None
