"""The app layer: `Flowq`, tasks, the public canvas and result objects."""
