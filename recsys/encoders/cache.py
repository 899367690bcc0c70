"""Encodings on disk, found again by the content they were made of.

One folder an encoder (its fingerprint), in it shards of some thousand rows: a safetensors file with ``keys``
uint8 [n, 32] (sha256 of the file or the text) and ``vectors`` float16 [n, dim]. A shard is written beside its name and
renamed, so it is there whole or not at all; a run killed halfway leaves the shards it finished, and the next run goes
on from them. Nothing is ever rewritten: two runs may share a folder, and a shard that is damaged is read past.
"""

import json
import logging
import os
import time
import uuid
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

log = logging.getLogger(__name__)

SHARD_ROWS = 8192  # 20 MB of 1280-d float16; a million items are about 120 files
SHARD_SECONDS = 30.0  # of work that a killed run may lose


class VectorCache:
    """The cache of one encoder.

    Args:
        folder: root of all encoders' caches; None keeps nothing.
        fingerprint: of the encoder: everything that its output depends on besides the input.
        dim: length of a vector.
        description: written once beside the shards for people to read.
    """

    def __init__(self, folder: Path | None, fingerprint: str, dim: int, description: dict[str, object]) -> None:
        self.folder = None if folder is None else Path(folder) / fingerprint[:32]
        self.dim = dim
        self._keys: list[bytes] = []
        self._vectors: list[npt.NDArray[np.float16]] = []
        self._flushed = time.monotonic()
        if self.folder is not None:
            self.folder.mkdir(parents=True, exist_ok=True)
            about = self.folder / "encoder.json"
            if not about.exists():
                _write_whole(about, json.dumps(description, indent=2, default=str).encode())

    def load(self, keys: Sequence[bytes]) -> tuple[npt.NDArray[np.float16], npt.NDArray[np.bool_]]:
        """Vectors of those keys that are on disk.

        Args:
            keys: distinct sha256 digests.
        Returns:
            float16 [n, dim] (zero where not found) and found bool [n].
        """
        vectors = np.zeros((len(keys), self.dim), np.float16)
        found = np.zeros(len(keys), np.bool_)
        if self.folder is None:
            return vectors, found
        position = {key: row for row, key in enumerate(keys)}
        for shard in sorted(self.folder.glob("*.safetensors")):
            try:
                with safe_open(shard, framework="numpy") as tensors:
                    digests = tensors.get_tensor("keys")
                    pairs = [
                        (position[key], row)
                        for row, key in enumerate(map(bytes, digests))
                        if key in position and not found[position[key]]
                    ]
                    if not pairs:
                        continue
                    stored = tensors.get_tensor("vectors")
            except (SafetensorError, OSError) as error:
                log.warning("%s is damaged and read past: %s", shard, error)
                continue
            if stored.shape != (len(digests), self.dim) or stored.dtype != np.float16:
                log.warning("%s is read past: expected float16 [n, %d], came %s %s", shard, self.dim, *_form(stored))
                continue
            targets, rows = np.array(pairs).T
            vectors[targets] = stored[rows]
            found[targets] = True
        return vectors, found

    def add(self, keys: Sequence[bytes], vectors: npt.NDArray[np.float16]) -> None:
        """Keep these rows; they reach the disk at the latest with the next ``flush``."""
        if self.folder is None:
            return
        self._keys.extend(keys)
        self._vectors.append(vectors)
        if len(self._keys) >= SHARD_ROWS or time.monotonic() - self._flushed >= SHARD_SECONDS:
            self.flush()

    def flush(self) -> None:
        """Write what was added since the last shard."""
        if self.folder is None or not self._keys:
            return
        tensors: dict[str, npt.NDArray[Any]] = {
            "keys": np.frombuffer(b"".join(self._keys), np.uint8).reshape(-1, 32),
            "vectors": np.concatenate(self._vectors),
        }
        _write_whole(self.folder / f"{uuid.uuid4().hex}.safetensors", save(tensors))
        self._keys, self._vectors = [], []
        self._flushed = time.monotonic()


def _form(array: npt.NDArray[np.generic]) -> tuple[str, str]:
    return str(array.dtype), str(list(array.shape))


def _write_whole(path: Path, data: bytes) -> None:
    """Write beside the name, then rename: readers see the old state or the new one, never a part."""
    beside = path.with_name(f"{path.name}.{uuid.uuid4().hex}.part")
    with beside.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    beside.replace(path)
