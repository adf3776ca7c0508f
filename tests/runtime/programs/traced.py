"""Runs another program with a tracer provider that prints each span in one line."""

import runpy
import sys

from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import ConsoleSpanExporter, SimpleSpanProcessor

provider = TracerProvider()
exporter = ConsoleSpanExporter(
    formatter=lambda span: f"span {span.name} {span.kind.name} {span.status.status_code.name}\n"
)
provider.add_span_processor(SimpleSpanProcessor(exporter))
trace.set_tracer_provider(provider)

sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
