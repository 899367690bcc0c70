"""Pictures and texts → vectors, by pretrained networks, once a content.

``encode_images`` and ``encode_texts`` are what the night calls. torch is imported when an encoder is loaded.
"""

from collections.abc import Callable
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from recsys.encoders.encode import Encoded
from recsys.encoders.image import ImageEncoder, ImageEncoderConfig, encode_images, load_image_encoder
from recsys.encoders.text import TextEncoder, TextEncoderConfig, encode_texts, item_text, load_text_encoder


class Encoder(Protocol):
    """What every loaded encoder has, whatever it reads."""

    fingerprint: str
    """sha256 over all that its output depends on besides the input."""
    dim: int
    """Length of a vector."""
    description: dict[str, object]
    """What the fingerprint was made of, for people to read."""

    def encode(self, inputs: Any, /) -> npt.NDArray[np.float32]:
        """float32 [n, dim], as the network gives them, n ≥ 1."""
        ...


ENCODERS: dict[str, Callable[[Any], Encoder]] = {
    "image": load_image_encoder,
    "text": load_text_encoder,
}
"""Modality → constructor, from that modality's config. Networks by name: image_networks.py and text_networks.py."""

__all__ = [
    "ENCODERS",
    "Encoded",
    "Encoder",
    "ImageEncoder",
    "ImageEncoderConfig",
    "TextEncoder",
    "TextEncoderConfig",
    "encode_images",
    "encode_texts",
    "item_text",
    "load_image_encoder",
    "load_text_encoder",
]
