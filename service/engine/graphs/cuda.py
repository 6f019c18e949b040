"""Records with CUDA graphs (``torch.cuda.CUDAGraph``)."""

from collections.abc import Callable

import torch

WARM_UPS = 2
"""Runs before recording: libraries make their handles and workspaces in the first ones."""


class CudaRecorder:
    """Graphs that share one pool of memory, since only one of them runs at a time."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._pool = torch.cuda.graph_pool_handle()

    def __call__(self, compute: Callable[[], None]) -> Callable[[], None]:
        """Record a function that neither waits for the device nor looks at its values.

        Another thread may compute on the device meanwhile: only this thread's calls are recorded.
        """
        stream = torch.cuda.Stream(self._device)  # type: ignore[no-untyped-call]
        stream.wait_stream(torch.cuda.current_stream(self._device))
        with torch.cuda.stream(stream):
            for _ in range(WARM_UPS):
                compute()
        torch.cuda.current_stream(self._device).wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(
            graph, pool=self._pool, stream=stream, capture_error_mode="thread_local"
        ):
            compute()
        return graph.replay
