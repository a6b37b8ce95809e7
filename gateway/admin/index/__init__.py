"""The console's index: sums of usage and a slim list of requests, in a file that can be rebuilt.

Filled from the required store, so that a page answers in milliseconds at a million events. The store
stays the truth: sums are those of `gateway/operations/report.py`.
"""
