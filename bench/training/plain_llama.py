"""The yardstick of ``bench.training.gpu``: a Llama and its training step in plain PyTorch.

Sixty lines that share nothing with this project: one projection for queries, keys and values, one
for gate and up, ``scaled_dot_product_attention``, the residual stream in bfloat16, logits in as few
chunks as 16,384 rows make, fused AdamW, ``clip_grad_norm_``. Each block may be compiled by itself,
head and loss apart ("regional").
"""

import time

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bench.training.measured import Measured, Shape

CHUNK_ROWS = 16384


class PlainBlock(nn.Module):
    """Attention and SwiGLU, each behind a norm."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        width, inner, self.heads = shape.width, shape.inner, (shape.heads, shape.kv_heads)
        self.head_dim = width // shape.heads
        self.qkv = nn.Linear(width, (shape.heads + 2 * shape.kv_heads) * self.head_dim, bias=False)
        self.out = nn.Linear(width, width, bias=False)
        self.gate_up = nn.Linear(width, 2 * inner, bias=False)
        self.down = nn.Linear(inner, width, bias=False)
        self.norms = nn.ModuleList(nn.RMSNorm(width, 1e-5) for _ in range(2))

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        """Map x [B, T, C] to [B, T, C]; cos and sin are [T, 1, D / 2]."""
        heads, shared = self.heads
        qkv = self.qkv(self.norms[0](x)).unflatten(-1, (-1, self.head_dim))
        query, key, value = qkv.split((heads, shared, shared), 2)
        query, key = (_rotated(states, cos, sin) for states in (query, key))
        query, key, value = (states.transpose(1, 2) for states in (query, key, value))
        mixed = F.scaled_dot_product_attention(
            query, key, value, is_causal=True, enable_gqa=heads != shared
        )
        x = x + self.out(mixed.transpose(1, 2).flatten(2))
        gate, up = self.gate_up(self.norms[1](x)).chunk(2, -1)
        return x + self.down(F.silu(gate) * up)


class PlainLlama(nn.Module):
    """Embedding, blocks, norm; the head is the embedding."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.embedding = nn.Embedding(shape.vocab, shape.width)
        self.blocks = nn.ModuleList(PlainBlock(shape) for _ in range(shape.layers))
        self.norm = nn.RMSNorm(shape.width, 1e-5)
        for parameter in self.parameters():
            if parameter.dim() > 1:
                nn.init.normal_(parameter, std=0.02)


def head_loss(hidden: Tensor, head: Tensor, targets: Tensor, chunks: int) -> Tensor:
    """Mean cross-entropy [] of hidden [B, T, C]."""
    total = torch.zeros((), device=hidden.device)
    parts = zip(hidden.flatten(0, 1).chunk(chunks), targets.flatten().chunk(chunks), strict=True)
    for part, wanted in parts:
        logits = F.linear(part, head).float()
        total = total + F.cross_entropy(logits, wanted, reduction="sum")
    return total / targets.numel()


def measure_plain(shape: Shape, steps: int, device: torch.device, *, regional: bool) -> Measured:
    """Seconds of training steps on random tokens, the device waited for after each."""
    torch.manual_seed(0)
    measured = Measured(device)
    model, dtype = PlainLlama(shape).to(device), torch.bfloat16
    half = shape.width // shape.heads // 2
    angles = torch.arange(shape.length)[:, None] * 10000.0 ** (-torch.arange(half) / half)
    cos, sin = (table[:, None].to(device, dtype) for table in (angles.cos(), angles.sin()))
    loss_of = torch.compile(head_loss) if regional else head_loss
    if regional:
        for block in model.blocks:
            block.compile()
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-4, fused=True)
    chunks = max(1, shape.rows * shape.length // CHUNK_ROWS)
    for _ in range(steps):
        tokens = torch.randint(shape.vocab, (shape.rows, shape.length + 1), device=device)
        measured.wait()
        began = time.perf_counter()
        with torch.autocast(device.type, dtype):
            x = model.embedding(tokens[:, :-1]).to(dtype)
            for block in model.blocks:
                x = block(x, cos, sin)
            loss = loss_of(model.norm(x), model.embedding.weight, tokens[:, 1:], chunks)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        measured.wait()
        measured.seconds.append(time.perf_counter() - began)
    return measured


def _rotated(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    first, second = x.chunk(2, -1)
    return torch.cat((first * cos - second * sin, second * cos + first * sin), -1)
