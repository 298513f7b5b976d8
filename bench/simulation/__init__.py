"""Batching in virtual time: a simulator, the rivals of our policy, and the workloads they are judged on."""
