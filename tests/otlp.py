"""A collector of OpenTelemetry: takes spans over OTLP/HTTP, as any does, and keeps them."""

import gzip
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)
from opentelemetry.proto.trace.v1.trace_pb2 import Span

LIMIT_S = 60.0


@dataclass
class Collector:
    """Spans in the order of their arrival; ``url`` is the endpoint to export to."""

    url: str = ""
    spans: list[Span] = field(default_factory=list)
    bodies: list[bytes] = field(default_factory=list)
    services: set[str] = field(default_factory=set)
    arrived: threading.Condition = field(default_factory=threading.Condition)

    def take(self, body: bytes) -> None:
        asked = ExportTraceServiceRequest.FromString(body)
        with self.arrived:
            self.bodies.append(body)
            for resource in asked.resource_spans:
                self.services |= {
                    one.value.string_value
                    for one in resource.resource.attributes
                    if one.key == "service.name"
                }
                for scope in resource.scope_spans:
                    self.spans += scope.spans
            self.arrived.notify_all()

    def wait_for(self, *names: str) -> dict[str, Span]:
        """The last span of each name, when all have come."""
        with self.arrived:
            done = self.arrived.wait_for(lambda: self._has(names), LIMIT_S)
            assert done, f"of {names} came {[one.name for one in self.spans]}"
            return {one.name: one for one in self.spans}

    def wait_for_trace(self, name: str, root: str, microvm_id: str) -> dict[str, Span]:
        """By name, the spans of the trace of this root that has such a span of this MicroVM."""
        with self.arrived:
            done = self.arrived.wait_for(lambda: self._trace(name, root, microvm_id), LIMIT_S)
            assert done, f"none of {root} has {name}: {[one.name for one in self.spans]}"
            return self._trace(name, root, microvm_id)

    def of_trace(self, trace_id: bytes) -> list[Span]:
        with self.arrived:
            return [one for one in self.spans if one.trace_id == trace_id]

    def _trace(self, name: str, root: str, microvm_id: str) -> dict[str, Span]:
        for one in self.spans:
            if one.name == name and attributes(one).get("microvmd.microvm_id") == microvm_id:
                trace = {other.name: other for other in self.of_trace(one.trace_id)}
                if root in trace and not trace[root].parent_span_id:
                    return trace
        return {}

    def _has(self, names: tuple[str, ...]) -> bool:
        return set(names) <= {one.name for one in self.spans}


@contextmanager
def collector() -> Iterator[Collector]:
    """One that listens on loopback."""
    made = Collector()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            if self.headers.get("content-encoding") == "gzip":
                body = gzip.decompress(body)
            assert self.path == "/v1/traces"
            made.take(body)
            answer = ExportTraceServiceResponse().SerializeToString()
            self.send_response(200)
            self.send_header("content-type", "application/x-protobuf")
            self.send_header("content-length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer)

        def log_message(self, format: str, *args: object) -> None:
            """Not into the output of the tests."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        made.url = f"http://127.0.0.1:{server.server_port}/v1/traces"
        thread = threading.Thread(target=server.serve_forever, name="collector")
        thread.start()
        try:
            yield made
        finally:
            server.shutdown()
            thread.join()


def attributes(span: Span) -> dict[str, str]:
    return {one.key: one.value.string_value for one in span.attributes}
