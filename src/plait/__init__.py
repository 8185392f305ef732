"""Raw text to a served language model, in parallel."""
__version__ = "0.1.0"
