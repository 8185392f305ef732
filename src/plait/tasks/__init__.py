"""The applications, each a short file: how a record becomes a prompt, how an answer is found and scored."""

TASKS = ("translate", "summarize", "answer", "classify", "complete", "scan", "babi", "dialog-babi")
