"""The applications, each a short file: how a record becomes a prompt, how an answer is found and scored."""

TASKS = ("translate", "summarize", "answer", "classify", "chat", "complete", "scan", "babi", "dialog-babi")
