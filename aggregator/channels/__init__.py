"""Channels of the aggregator."""
