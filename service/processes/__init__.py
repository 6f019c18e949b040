"""Engine and HTTP in processes of their own: ``--engine process``. What lives where:

- **The parent** (``supervisor``) holds the listening sockets, forks the others, and begins an HTTP
  process again that has ended. It never touches a device.
- **The engine's process** (``engine``) has a whole ``service.runtime.Runtime``: volume, watcher,
  loader, models, worker, limits, and ``/metrics``. ``hub`` stands where the switchboard does
  elsewhere: it sends each HTTP process one message a step with all of its events. Routes about
  checkpoints, models, health and metrics are answered here.
- **HTTP processes** (``web``) have a ``remote.RemoteFront``: connections, JSON, keys, tokenizing,
  text of tokens, streams, and each request's timeline, log line and latencies. What they count
  lies in files that outlive them, which ``counters`` adds to the engine's.

Between them is a Unix socket (``channel``) with ``frames`` of plain data (``messages``; ``turns``
for what comes every step). An HTTP process names models by cards: while it holds one, the engine
keeps the model's weights. Linux alone: the clock's readings hold in all processes.
"""
