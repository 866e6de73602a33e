"""The broker: message codec and kombu's transports. The only package that imports kombu."""
