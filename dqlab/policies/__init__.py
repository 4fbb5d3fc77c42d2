"""Policies: how an action is made from a state and injected noise."""
