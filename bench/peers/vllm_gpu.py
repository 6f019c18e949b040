"""vLLM on a GPU by the protocol of ``bench.gpu``; needs vLLM beside PyTorch, nothing of ours.

SmolLM2-135M's shape with vLLM's own random weights, bfloat16, its engine core in this process,
CUDA graphs and torch.compile as it has them by default, prefix cache off. Prints one JSON line.
"""

import argparse
import json
import os
import random
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

STREAMS = (1, 8, 32, 128, 256)
PROMPT_TOKENS = NEW_TOKENS = 128
TTFT_TOKENS = (512, 1024)
MAX_TOKENS = 2048
DRAWN: dict[str, dict[str, Any]] = {
    "greedy": {"temperature": 0.0},
    "temperature 0.8": {"temperature": 0.8},
    "top-k 50, top-p 0.95": {"temperature": 0.8, "top_k": 50, "top_p": 0.95},
}
CONFIG = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_size": 576,
    "intermediate_size": 1536,
    "num_hidden_layers": 30,
    "num_attention_heads": 9,
    "num_key_value_heads": 3,
    "head_dim": 64,
    "vocab_size": 49152,
    "max_position_embeddings": MAX_TOKENS,
    "rms_norm_eps": 1e-5,
    "rope_theta": 100000.0,
    "rope_parameters": {"rope_type": "default", "rope_theta": 100000.0},
    "tie_word_embeddings": True,
    "hidden_act": "silu",
    "bos_token_id": 1,
    "eos_token_id": 2,
    "torch_dtype": "bfloat16",
    "initializer_range": 0.02,
    "attention_bias": False,
    "mlp_bias": False,
}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--streams", type=int, nargs="+", default=STREAMS)
    parser.add_argument("--share", type=float, default=0.4, help="of the GPU's memory, for vLLM")
    options = parser.parse_args()
    os.environ |= {
        "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
        "VLLM_LOGGING_LEVEL": "WARNING",
        "VLLM_NO_USAGE_STATS": "1",
        "VLLM_USE_FLASHINFER_SAMPLER": "0",  # it would have to be compiled first
        "HF_HUB_OFFLINE": "1",
        "TRANSFORMERS_OFFLINE": "1",
    }
    began = time.perf_counter()
    peer = Peer(max(options.streams), options.share)
    row: dict[str, object] = {"peer": f"vllm {peer.version}"}
    row["start_s"] = round(time.perf_counter() - began, 1)
    print(row, flush=True)
    rates = []
    for name, params in DRAWN.items():
        found: dict[str, object] = {"drawn": name}
        for streams in options.streams:
            runs = [
                peer.drive(streams, PROMPT_TOKENS, NEW_TOKENS, seed, params)
                for seed in range(options.repeats + 1)
            ][1:]
            decodes = [decode for decode, _, _ in runs]
            found[f"decode_{streams}"] = round(statistics.median(decodes), 1)
            spread = (max(decodes) - min(decodes)) / statistics.median(decodes)
            found[f"spread_{streams}"] = round(spread, 3)
            found[f"e2e_{streams}"] = round(statistics.median(whole for _, whole, _ in runs), 1)
        rates.append(found)
        print(found, flush=True)
    first = {}
    for length in TTFT_TOKENS:
        runs = [peer.drive(1, length, 1, seed, DRAWN["greedy"]) for seed in range(8)][2:]
        first[f"ttft_{length}_ms"] = round(1000 * statistics.median(t for _, _, t in runs), 2)
    print(first, flush=True)
    import torch

    row |= {"rates": rates, "first_token": first, "torch": torch.__version__}
    row |= {"card": torch.cuda.get_device_name(), "date": time.strftime("%Y-%m-%d")}
    print(json.dumps({"benchmark": "gpu peer", **row}), flush=True)


class Peer:
    """One engine, stepped by hand."""

    def __init__(self, max_streams: int, share: float) -> None:
        """Start it over a directory that holds a config alone."""
        import vllm

        directory = Path(tempfile.mkdtemp(prefix="vllm-gpu-"))
        (directory / "config.json").write_text(json.dumps(CONFIG), "utf-8")
        self.version = vllm.__version__
        self._sampling = vllm.SamplingParams
        sizes = [size for size in (1, 2, 4, 8, 16, 32, 64, 128, 256) if size <= max_streams]
        arguments = vllm.EngineArgs(
            model=str(directory),
            load_format="dummy",
            skip_tokenizer_init=True,
            dtype="bfloat16",
            max_model_len=MAX_TOKENS,
            max_num_seqs=max_streams,
            enable_prefix_caching=False,
            gpu_memory_utilization=share,
            disable_log_stats=True,
            compilation_config={"cudagraph_capture_sizes": sizes},
        )
        self._engine = vllm.LLMEngine.from_engine_args(arguments)

    def drive(
        self, streams: int, length: int, new_tokens: int, seed: int, params: dict[str, Any]
    ) -> tuple[float, float, float]:
        """Tokens a second while all decode, and end to end; seconds until all have a token."""
        rng = random.Random(seed)
        sampling = self._sampling(
            max_tokens=new_tokens, ignore_eos=True, detokenize=False, **params
        )
        prompts = [[rng.randrange(1000) for _ in range(length)] for _ in range(streams)]
        counts = {str(stream): 0 for stream in range(streams)}
        began = time.perf_counter()
        for stream, prompt in enumerate(prompts):
            self._engine.add_request(str(stream), {"prompt_token_ids": prompt}, sampling)
        decoding, before = None, 0
        while self._engine.has_unfinished_requests():
            for output in self._engine.step():
                counts[output.request_id.split("-")[0]] = len(output.outputs[0].token_ids)
            if decoding is None and min(counts.values()) > 0:
                decoding, before = time.perf_counter(), sum(counts.values())
        ended = time.perf_counter()
        tokens = sum(counts.values())
        assert decoding is not None
        assert tokens == streams * new_tokens
        decode = (tokens - before) / (ended - decoding) if tokens > before else 0.0
        return decode, tokens / (ended - began), decoding - began


if __name__ == "__main__":
    main()
