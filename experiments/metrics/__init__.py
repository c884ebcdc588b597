"""Metrics: what unlearning and defences cost, and what they leave. One file a metric; the extractor is pluggable everywhere."""
