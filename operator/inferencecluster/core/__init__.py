"""Pure decisions: standard library only, frozen dataclasses, no clock, no I/O, no logging.

`decision.decide(observation, memory)` is the one way through; the operator, `Recommend` mode, the
simulator and replay all call it.
"""
