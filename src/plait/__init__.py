"""Raw text to a served language model, in parallel.

```python
model, tokenizer = plait.load("runs/first")
logits = model(torch.tensor([tokenizer.encode("Once upon")]))
plait.Engine("runs/first").generate("Once upon", plait.SamplingParams(max_tokens=20))
for step in plait.train("recipe.yaml"): ...
```

Names are imported when first used, so that `import plait` is instant and does not load torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from plait.api import generate, score, train
    from plait.applications import answer, chat, classify, complete, summarize, translate
    from plait.checkpoint.directory import load, save
    from plait.errors import PlaitError
    from plait.infer.engine import Engine
    from plait.infer.params import SamplingParams
    from plait.nn.config import ModelConfig
    from plait.nn.decoder import Decoder
    from plait.nn.initialize import initialize
    from plait.recipes.recipe import Recipe
    from plait.text.tokenizer import Tokenizer

__version__ = "0.1.0"

_HOMES = {
    **dict.fromkeys(
        ("translate", "summarize", "answer", "chat", "classify", "complete"), "plait.applications"
    ),
    "generate": "plait.api",
    "score": "plait.api",
    "load": "plait.checkpoint.directory",
    "save": "plait.checkpoint.directory",
    "PlaitError": "plait.errors",
    "Engine": "plait.infer.engine",
    "SamplingParams": "plait.infer.params",
    "ModelConfig": "plait.nn.config",
    "Decoder": "plait.nn.decoder",
    "initialize": "plait.nn.initialize",
    "Recipe": "plait.recipes.recipe",
    "Tokenizer": "plait.text.tokenizer",
    "train": "plait.train",  # the package, which can be called
}

__all__ = [
    "Decoder",
    "Engine",
    "ModelConfig",
    "PlaitError",
    "Recipe",
    "SamplingParams",
    "Tokenizer",
    "__version__",
    "answer",
    "chat",
    "classify",
    "complete",
    "generate",
    "initialize",
    "load",
    "save",
    "score",
    "summarize",
    "train",
    "translate",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'plait' has no attribute {name!r}")
    home = import_module(_HOMES[name])
    return home if name == "train" else getattr(home, name)


def __dir__() -> list[str]:
    return sorted(__all__)
