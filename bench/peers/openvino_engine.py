"""OpenVINO GenAI by the protocol of ``bench.engine``; runs inside the peer's environment, alone."""

import argparse
import json
import math
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import openvino as ov
import openvino_genai as genai
from openvino import properties as ov_properties

FORMATS = {
    "bfloat16": ["--weight-format", "fp16"],
    "int8": ["--weight-format", "int8"],
    "int4": ["--weight-format", "int4", "--group-size", "64", "--ratio", "1.0"],
}
"""Arguments of ``optimum-cli export openvino``. The hidden size is no multiple of 128."""
CACHE_GB = 1
STEP_TOKENS = 2048


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", type=Path, required=True, help="Hugging Face directory, float32")
    parser.add_argument("--precision", choices=FORMATS, required=True)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--windows", type=Path, help="JSON lists of token ids")
    options = parser.parse_args()
    from protocol import finish, measure

    peer = Peer(exported(options.model, options.precision), options.threads)
    made = "optimum-cli export openvino " + " ".join(FORMATS[options.precision])
    made += "; computes in bfloat16"
    name = f"openvino-genai {genai.__version__.split('-')[0]}"
    row = measure(peer, name, options.precision, made, options.repeats)
    finish(peer, row, json.loads(options.windows.read_text()) if options.windows else [])


class Peer:
    """A continuous batching pipeline, stepped by hand; prefix cache off."""

    def __init__(self, model: Path, threads: int) -> None:
        scheduler = genai.SchedulerConfig()
        scheduler.cache_size = CACHE_GB
        scheduler.max_num_seqs = 32
        scheduler.max_num_batched_tokens = STEP_TOKENS
        scheduler.enable_prefix_caching = False
        self.model = model
        self.properties = {
            ov_properties.inference_num_threads(): threads,
            ov_properties.hint.inference_precision(): ov.Type.bf16,
        }
        self.pipeline = genai.ContinuousBatchingPipeline(
            str(model), scheduler, "CPU", self.properties
        )
        self.handles: list[genai.GenerationHandle] = []
        self.counts: list[int] = []

    def submit(self, prompts: list[list[int]], new_tokens: int) -> None:
        config = genai.GenerationConfig()
        config.max_new_tokens, config.ignore_eos, config.do_sample = new_tokens, True, False
        self.handles = [
            self.pipeline.add_request(i, ov.Tensor(np.array([prompt], dtype=np.int64)), config)
            for i, prompt in enumerate(prompts)
        ]
        self.counts = [0] * len(prompts)

    def step(self) -> list[int]:
        self.pipeline.step()
        for i, handle in enumerate(self.handles):
            if handle.can_read():
                self.counts[i] += sum(len(part.generated_ids) for part in handle.read().values())
        return self.counts

    def perplexity(self, windows: list[list[int]]) -> float:
        """Through the plain model that the pipeline was made from, in the same precision."""
        core = ov.Core()
        request = core.compile_model(
            str(self.model / "openvino_model.xml"), "CPU", self.properties
        ).create_infer_request()
        nats, count = 0.0, 0
        for window in windows:
            request.reset_state()
            inputs = {
                "input_ids": np.array([window], dtype=np.int64),
                "attention_mask": np.ones((1, len(window)), dtype=np.int64),
                "position_ids": np.arange(len(window), dtype=np.int64)[None],
                "beam_idx": np.zeros(1, dtype=np.int32),
            }
            logits = request.infer(inputs)["logits"][0, :-1].astype(np.float64)
            peak = logits.max(axis=1)
            total = peak + np.log(np.exp(logits - peak[:, None]).sum(axis=1))
            nats += float((total - logits[np.arange(len(window) - 1), window[1:]]).sum())
            count += len(window) - 1
        return math.exp(nats / count)


def exported(model: Path, precision: str) -> Path:
    """The directory's copy in OpenVINO's own format, written once."""
    target = model.with_name(f"{model.name}-openvino-{precision}")
    if not (target / "openvino_model.xml").exists():
        command = [str(Path(sys.executable).with_name("optimum-cli")), "export", "openvino"]
        command += ["--model", str(model), "--task", "text-generation-with-past"]
        done = {"HF_HUB_OFFLINE": "1", **os.environ}
        subprocess.run(
            [*command, *FORMATS[precision], str(target)],
            check=True,
            env=done,
            stdout=subprocess.DEVNULL,
        )
    return target


if __name__ == "__main__":
    main()
