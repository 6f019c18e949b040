"""llama.cpp by the protocol of ``bench.engine``; runs inside the peer's environment, alone.

It imports nothing of ours. Sequences share one context and one batch a step, as llama.cpp's own
batched benchmark does; the likeliest token is taken with NumPy. One JSON line.
"""

import argparse
import ctypes
import json
import math
import random
import resource
import statistics
import time
from pathlib import Path

import llama_cpp as lib
import numpy as np

FTYPES = {
    "BF16": lib.LLAMA_FTYPE_MOSTLY_BF16,
    "Q8_0": lib.LLAMA_FTYPE_MOSTLY_Q8_0,
    "Q4_0": lib.LLAMA_FTYPE_MOSTLY_Q4_0,
    "Q4_1": lib.LLAMA_FTYPE_MOSTLY_Q4_1,
}
STREAMS = 32
BATCH_TOKENS = 512


class Peer:
    """One quantized file, with room for 32 sequences."""

    def __init__(self, path: Path, threads: int) -> None:
        lib.llama_backend_init()
        self.model = lib.llama_model_load_from_file(
            str(path).encode(), lib.llama_model_default_params()
        )
        params = lib.llama_context_default_params()
        params.n_ctx = STREAMS * 288
        params.n_batch = params.n_ubatch = BATCH_TOKENS
        params.n_seq_max = STREAMS
        params.n_threads = params.n_threads_batch = threads
        params.kv_unified = True
        self.context = lib.llama_init_from_model(self.model, params)
        self.vocab_size = lib.llama_vocab_n_tokens(lib.llama_model_get_vocab(self.model))
        self.batch = lib.llama_batch_init(BATCH_TOKENS, 0, 1)

    def clear(self) -> None:
        lib.llama_memory_clear(lib.llama_get_memory(self.context), True)  # noqa: FBT003

    def decode(self, rows: list[tuple[int, int, int, bool]]) -> None:
        """Rows of (token, position, sequence, whether its logits are wanted)."""
        batch = self.batch
        batch.n_tokens = len(rows)
        for i, (token, position, sequence, wanted) in enumerate(rows):
            batch.token[i], batch.pos[i] = token, position
            batch.n_seq_id[i], batch.seq_id[i][0] = 1, sequence
            batch.logits[i] = int(wanted)
        assert lib.llama_decode(self.context, batch) == 0

    def logits(self, row: int) -> np.ndarray:
        pointer = lib.llama_get_logits_ith(self.context, row)
        return np.ctypeslib.as_array(pointer, shape=(self.vocab_size,))


def prefill(peer: Peer, prompts: list[list[int]]) -> list[int]:
    """First token of each prompt; whole batches, as the prompts come."""
    rows = [
        (token, position, sequence, position == len(prompt) - 1)
        for sequence, prompt in enumerate(prompts)
        for position, token in enumerate(prompt)
    ]
    first = [0] * len(prompts)
    for start in range(0, len(rows), BATCH_TOKENS):
        part = rows[start : start + BATCH_TOKENS]
        peer.decode(part)
        for i, (_, _, sequence, wanted) in enumerate(part):
            if wanted:
                first[sequence] = int(peer.logits(i).argmax())
    return first


def rates(peer: Peer, streams: int, length: int, new: int, seed: int) -> tuple[float, float]:
    """Tokens a second while all decode, and end to end."""
    rng = random.Random(seed)
    prompts = [[rng.randrange(1000) for _ in range(length)] for _ in range(streams)]
    peer.clear()
    began = time.perf_counter()
    tokens = prefill(peer, prompts)
    decoding = time.perf_counter()
    for step in range(new - 1):
        peer.decode([(token, length + step, s, True) for s, token in enumerate(tokens)])
        tokens = [int(peer.logits(i).argmax()) for i in range(streams)]
    ended = time.perf_counter()
    return streams * (new - 1) / (ended - decoding), streams * new / (ended - began)


def first_token_s(peer: Peer, length: int, seed: int) -> float:
    rng = random.Random(seed)
    peer.clear()
    began = time.perf_counter()
    prefill(peer, [[rng.randrange(1000) for _ in range(length)]])
    return time.perf_counter() - began


def perplexity(peer: Peer, windows: list[list[int]]) -> float:
    nats, count = 0.0, 0
    for window in windows:
        peer.clear()
        peer.decode([(token, i, 0, True) for i, token in enumerate(window)])
        for i, target in enumerate(window[1:]):
            row = peer.logits(i).astype(np.float64)
            peak = row.max()
            nats += peak + math.log(np.exp(row - peak).sum()) - row[target]
            count += 1
    return math.exp(nats / count)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", type=Path, required=True, help="directory of a float GGUF file")
    parser.add_argument("--precision", choices=FTYPES, required=True)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--windows", type=Path, help="JSON lists of token ids")
    options = parser.parse_args()
    source = next(options.model.glob("*F16.gguf"))
    path = source.with_name(f"{source.stem}-{options.precision}.gguf")
    if not path.exists():
        params = lib.llama_model_quantize_default_params()
        params.ftype, params.nthread = FTYPES[options.precision], options.threads
        names = str(source).encode(), str(path).encode()
        assert lib.llama_model_quantize(*names, ctypes.byref(params)) == 0
    peer = Peer(path, options.threads)
    row: dict[str, object] = {
        "peer": f"llama.cpp {lib.__version__}",
        "precision": options.precision,
        "made": "float16 GGUF of the same weights, through llama.cpp's own quantization",
    }
    for streams in (1, 8, 32):
        rates(peer, streams, 128, 8, 99)
        measured = [rates(peer, streams, 128, 128, seed) for seed in range(options.repeats)]
        row[f"decode_{streams}"] = round(statistics.median(d for d, _ in measured), 1)
        row[f"e2e_{streams}"] = round(statistics.median(e for _, e in measured), 1)
    for length in (512, 1024):
        times = [first_token_s(peer, length, seed) for seed in range(options.repeats)]
        row[f"ttft_{length}_ms"] = round(1000 * statistics.median(times), 1)
    row["peak_gb"] = round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6, 2)
    windows = json.loads(options.windows.read_text()) if options.windows else []
    row["perplexity"] = round(perplexity(peer, windows), 3) if windows else None
    print(json.dumps(row), flush=True)


if __name__ == "__main__":
    main()
