"""What a run beside the peers says: this engine's figures as ratios to the best of them."""

from collections.abc import Iterable, Mapping

OWN = "nestling"
NATIVE = f"{OWN} native"
EQUAL_BITS = (("bfloat16", "BF16"), ("int8", "Q8_0"), ("int4", "Q4_0"))
"""Our precision and llama.cpp's of as many bits a weight; our int4 has a least value to every
scale, as Q4_1 has, and is compared with the faster Q4_0."""
BATCHES = ("decode_8", "decode_32", "e2e_8", "e2e_32")
TTFTS = ("ttft_512_ms", "ttft_1024_ms")
LLAMA_CPP = "llama.cpp"

Row = Mapping[str, object]


def ratios(rows: Iterable[Row]) -> dict[str, float]:
    """Ours by theirs: above 1 is better for rates, below 1 for times and memory.

    Decoding one stream is compared at equal weight bits and best to best; everything else is this
    engine's default, int8, with the best of all peers' rows. A peer that is missing is left out.
    """
    rows = list(rows)
    mine = {str(row["precision"]): row for row in rows if str(row["peer"]).startswith(NATIVE)}
    peers = [row for row in rows if not str(row["peer"]).startswith(OWN)]
    llama = {row["precision"]: row for row in peers if str(row["peer"]).startswith(LLAMA_CPP)}
    batching = [row for row in peers if not str(row["peer"]).startswith(LLAMA_CPP)]
    default = mine["int8"]
    result = {
        f"decode_1 {ours} by {theirs}": number(mine[ours], "decode_1")
        / number(llama[theirs], "decode_1")
        for ours, theirs in EQUAL_BITS
        if theirs in llama
    }
    if peers:
        best = max(number(row, "decode_1") for row in mine.values())
        result["decode_1 best by best"] = best / max(number(row, "decode_1") for row in peers)
        for name in BATCHES:
            result[name] = number(default, name) / max(number(row, name) for row in peers)
        for name in TTFTS:
            result[name] = number(default, name) / min(number(row, name) for row in peers)
    if batching:
        least = min(number(row, "peak_gb") for row in batching)
        result["peak_gb by batching engines"] = number(default, "peak_gb") / least
    if llama:
        least = min(number(row, "peak_gb") for row in llama.values())
        result["peak_gb by llama.cpp"] = number(default, "peak_gb") / least
    return {name: round(ratio, 2) for name, ratio in result.items()}


def number(row: Row, name: str) -> float:
    """A measured value."""
    value = row[name]
    assert isinstance(value, int | float), f"{row['peer']} has no {name}"
    return float(value)
