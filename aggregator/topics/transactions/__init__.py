"""Transactions of producers with a transactional id (KIP-98): see rules.py."""
