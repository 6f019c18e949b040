"""Records steps as CUDA graphs."""

from collections.abc import Callable

import torch

WARM_UPS = 2
"""Runs before recording: kernels are compiled and libraries make their handles in the first."""


class GraphRecorder:
    """Records on one stream, into one pool of memory: its graphs never run at the same time."""

    def __init__(self, stream: torch.cuda.Stream) -> None:
        self._stream = stream
        self._pool = torch.cuda.graph_pool_handle()
        self.num_recorded = 0
        """Graphs so far; a swap between models of one shape adds none."""

    def __call__(self, compute: Callable[[], None]) -> Callable[[], None]:
        """Record a function that neither waits for the device nor looks at its values.

        Other threads may compute on the device meanwhile: only this thread's calls are recorded.
        ``torch.cuda.graph`` is not used, since it empties the allocator's cache for each graph,
        which makes every stream of the device wait.
        """
        graph = torch.cuda.CUDAGraph()
        # What the caller put into the function's tensors has to be there before the first run.
        self._stream.wait_stream(torch.cuda.current_stream(self._stream.device))
        with torch.cuda.stream(self._stream):
            for _ in range(WARM_UPS):
                compute()
            self._stream.synchronize()
            graph.capture_begin(pool=self._pool, capture_error_mode="thread_local")
            try:
                compute()
            finally:
                graph.capture_end()
        self.num_recorded += 1
        return _Recording(graph, compute)


class _Recording:
    """A graph, and the function that it was recorded from, whose tensors it goes on to use."""

    def __init__(self, graph: torch.cuda.CUDAGraph, compute: Callable[[], None]) -> None:
        self._graph = graph
        self._compute = compute

    def __call__(self) -> None:
        """Do the same again."""
        self._graph.replay()
