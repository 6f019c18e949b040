"""An OpenTelemetry collector as far as a test needs one: takes OTLP over HTTP, keeps the spans."""

from http.server import BaseHTTPRequestHandler

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span

from serving.background_server import BackgroundServer, Quiet


class Collector(BackgroundServer):
    """Its ``url`` is an ``otlp_endpoint``."""

    def __init__(self) -> None:
        self.spans: list[Span] = []
        self.resources: list[dict[str, str]] = []
        collector = self

        class Handler(Quiet, BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"]))
                collector.take(self.path, body)
                self.send_response(200)
                self.send_header("content-length", "0")
                self.end_headers()

        super().__init__(Handler)

    def take(self, path: str, body: bytes) -> None:
        """Keep what one export brought."""
        assert path == "/v1/traces"
        for of_resource in ExportTraceServiceRequest.FromString(body).resource_spans:
            attributes = of_resource.resource.attributes
            self.resources.append({a.key: a.value.string_value for a in attributes})
            for of_scope in of_resource.scope_spans:
                self.spans.extend(of_scope.spans)
