"""The pure heart of flowq: values in, values out; no clock, no dice, no I/O."""
