import pytest
from hypothesis import settings

from plait.text.train_tokenizer import train

# timings on a busy machine say nothing, and sixty examples find what a thousand would
settings.register_profile("data", deadline=None, max_examples=60)
settings.load_profile("data")


@pytest.fixture(scope="session")
def tokenizer():
    """A token a byte, where a test has none of its own."""
    return train(["x"], kind="byte")
