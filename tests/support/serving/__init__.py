"""What tests of the service share: engines over toys, live services, clients, small parsers."""

from serving.engines import (
    GatedDecoder,
    gated_engine,
    generation_request,
    gpu_runner,
    overlapped_engine,
    pieces,
    reference_ids,
    toy_engine,
    toy_runner,
    toy_served,
)
from serving.exposition import Exposition
from serving.live_service import GatedService, LiveService, toy_settings
from serving.process import ServiceProcess
from serving.raw_client import RawClient
from serving.sse import Stream, stream_generate
from serving.steady import Noticed, SteadyClient, assert_unhurt
from serving.waiting import wait_until

__all__ = [
    "Exposition",
    "GatedDecoder",
    "GatedService",
    "LiveService",
    "Noticed",
    "RawClient",
    "ServiceProcess",
    "SteadyClient",
    "Stream",
    "assert_unhurt",
    "gated_engine",
    "generation_request",
    "gpu_runner",
    "overlapped_engine",
    "pieces",
    "reference_ids",
    "stream_generate",
    "toy_engine",
    "toy_runner",
    "toy_served",
    "toy_settings",
    "wait_until",
]
