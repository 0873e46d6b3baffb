"""Test support: fixtures, servers, fault injection, and helpers shared by test modules."""
