"""Texts → vectors: ``encode_texts``, the encoder that a service loads for a query, and the text of an item."""

import hashlib
import html
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from recsys.encoders.cache import VectorCache
from recsys.encoders.encode import Encoded, EncodedBatch, Job, encode_cached, fingerprint_of, parse_model_name
from recsys.errors import require_at_least

if TYPE_CHECKING:
    from recsys.encoders.text_networks import TextNetwork

WIDTH_STEP = 8  # texts are padded to a multiple of this and share batches with their like
CHUNK_TEXTS = 16384  # tokenised at a time, which bounds the memory that token ids take
MAX_CHARACTERS = 64  # for each token that is kept: a text of megabytes is cut before it is tokenised


@dataclass(frozen=True)
class TextEncoderConfig:
    """Which network, and how exactly it computes.

    Args:
        model: "minilm-l6:layers" (its weights install with pip; without ":layers" the sentence's vector alone, which
            knows less of names), "hf:NAME", or a directory that transformers wrote.
        max_tokens: longer texts are cut; a network that takes fewer sets its own limit.
        precision: "auto" is bfloat16 where the CPU has it in hardware, else float32.
    """

    model: str = "minilm-l6:layers"
    max_tokens: int = 256
    precision: str = "auto"

    def __post_init__(self) -> None:
        require_at_least("text_encoder", self, max_tokens=3)  # a word, and the marks of start and end


class TextEncoder:
    """One loaded text network.

    Attributes:
        fingerprint: sha256 over weights, tokeniser, limits and precision; equal fingerprints give equal vectors.
        name: as it was asked for.
        dim: length of a vector.
        batch_tokens: tokens, padding included, that it encodes fastest at a time.
    """

    def __init__(self, name: str, network: "TextNetwork", precision: str) -> None:
        from recsys.encoders import text_networks

        self._network = network
        self._networks = text_networks
        self.name = name
        self.dim = network.dim
        self.batch_tokens = text_networks.PRODUCT_ROWS
        self.description: dict[str, object] = {
            "weights_sha256": network.weights_sha256,
            "max_tokens": network.max_tokens,
            "width_step": WIDTH_STEP,
            "precision": precision,
        }
        self.fingerprint = fingerprint_of(self.description)

    def tokenise(self, texts: Sequence[str]) -> list[list[int]]:
        """Token ids, at most the network's limit, at least one."""
        limit = self._network.max_tokens
        clean = [text[: limit * MAX_CHARACTERS].encode("utf-8", "replace").decode() for text in texts]
        ids = self._network.tokenizer(clean, truncation=True, max_length=limit, padding=False)["input_ids"]
        return [row or [self._network.pad_token_id] for row in ids]

    def width(self, n_tokens: int) -> int:
        """The width that a text of so many tokens is padded to."""
        limit = self._network.max_tokens
        return limit if self._network.fixed_width else min(-(-n_tokens // WIDTH_STEP) * WIDTH_STEP, limit)

    def encode_tokens(self, rows: list[list[int]], width: int) -> npt.NDArray[np.float32]:
        """Token ids, none longer than ``width`` → float32 [n, dim], as the network gives them."""
        return self._networks.run_texts(self._network, rows, width)

    def encode(self, texts: Sequence[str]) -> npt.NDArray[np.float32]:
        """A few texts at once, such as a query → float32 [n, dim], as the network gives them."""
        rows = self.tokenise(texts)
        return self.encode_tokens(rows, self.width(max(map(len, rows))))


def load_text_encoder(config: TextEncoderConfig) -> TextEncoder:
    """Load what ``config.model`` names.

    Raises:
        ConfigError: the name has no known form.
        EncoderError: the weights are missing, or not the expected ones.
    """
    from recsys.encoders.text_networks import TEXT_NETWORKS
    from recsys.encoders.weights import one_thread, resolve_precision

    precision = resolve_precision(config.precision)
    scheme, name = parse_model_name(config.model, list(TEXT_NETWORKS), otherwise="hf")
    with one_thread():
        return TextEncoder(config.model, TEXT_NETWORKS[scheme](name, config.max_tokens, precision), precision)


def encode_texts(
    texts: Sequence[str | None],
    config: TextEncoderConfig | TextEncoder,
    cache_dir: Path | None,
    progress: bool = True,
    threads: int | None = None,
) -> Encoded:
    """Vectors of texts, from the cache where they were seen before.

    The same texts give the same bits, with however many threads: each batch is computed on one. A text's bits do not
    depend on those beside it either: it is padded to a width that its own length decides, and oneDNN treats the rows of
    a batch alike (tests/test_encoders.py asks), except that a single one may take another path, so it gets company.

    Args:
        texts: None or blank where there is none.
        config: which encoder to load, or one that is loaded already.
        cache_dir: root of the cache; None keeps nothing.
        progress: show a bar.
        threads: batches computed at a time; None is one a core.
    Returns:
        One row a text.
    """
    encoder = config if isinstance(config, TextEncoder) else load_text_encoder(config)
    cache = VectorCache(cache_dir, encoder.fingerprint, encoder.dim, {"model": encoder.name, **encoder.description})
    keys = [
        hashlib.sha256(text.encode("utf-8", "replace")).digest() if text and not text.isspace() else None
        for text in texts
    ]

    def n_rows(width: int) -> int:
        return max(1, encoder.batch_tokens // width)

    def job(positions: Sequence[int], rows: list[list[int]], width: int) -> EncodedBatch:
        company = rows if len(rows) > 1 or n_rows(width) == 1 else rows * 2
        return EncodedBatch(positions, encoder.encode_tokens(company, width)[: len(rows)])

    def plan(missing: Sequence[int]) -> Iterator[Job]:
        for start in range(0, len(missing), CHUNK_TEXTS):
            chunk = missing[start : start + CHUNK_TEXTS]
            ids = encoder.tokenise([texts[position] or "" for position in chunk])
            of_width: dict[int, list[int]] = {}
            for row, tokens in enumerate(ids):
                of_width.setdefault(encoder.width(len(tokens)), []).append(row)
            for width, members in sorted(of_width.items()):
                for begin in range(0, len(members), n_rows(width)):
                    rows = members[begin : begin + n_rows(width)]
                    yield partial(job, [chunk[row] for row in rows], [ids[row] for row in rows], width)

    return encode_cached(keys, plan, cache, {}, threads, "texts" if progress else None)


def item_text(
    title: str | None,
    description: str | None = None,
    category: str | None = None,
    brand: str | None = None,
    attributes: Sequence[str] = (),
) -> str | None:
    """The text that stands for an item: what names it first, because networks cut the end off.

    >>> item_text("Strap top", "Jersey top.", "Women > Tops", "Basics", ["colour_name=White"])
    'Strap top. Women, Tops. Basics. colour name: White. Jersey top.'

    Args:
        title, description, category, brand: as in ``schema.ITEMS``; markup is removed. ``category`` is a path with ">".
        attributes: "name=value" tokens; a value without a letter (a code, a size) is left out: it says nothing to a
            network that reads words.
    Returns:
        None where there is nothing to say.
    """
    values = (token.partition("=") for token in attributes)
    named = ", ".join(f"{name.replace('_', ' ')}: {value}" for name, _, value in values if any(map(str.isalpha, value)))
    path = ", ".join(part.strip() for part in (category or "").split(">") if part.strip())
    parts = [_plain(part) for part in (title, path, brand, named, description)]
    sentences = [part if part[-1] in ".!?" else f"{part}." for part in parts if part]
    return " ".join(sentences) or None


def _plain(text: str | None) -> str:
    """Without tags, entities and runs of white space."""
    return " ".join(html.unescape(re.sub(r"<[a-zA-Z/!][^<>]*>", " ", text or "")).split())
