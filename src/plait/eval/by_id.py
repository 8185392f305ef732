"""Outputs that name the question they answer, put into the order of the references."""

from __future__ import annotations

from collections.abc import Sequence

from plait import log
from plait.errors import InputError
from plait.eval.samples import has_records, read_records


def answers_by_id(path: str) -> dict[str, str] | None:
    """`{id: answer}`, as the scripts of SQuAD and CMRC 2018 read predictions; None for another file.

    Raises:
        InputError: a file that cannot be read.
    """
    if not path.removesuffix(".gz").removesuffix(".zst").endswith(".json"):
        return None
    rows = [row for _, _, row in read_records(path)]
    if len(rows) != 1 or not all(isinstance(value, str) for value in rows[0].values()):
        return None
    return {str(key): value for key, value in rows[0].items()}


def in_order(answers: dict[str, str], path: str, references: str) -> list[str]:
    """The answer to each question of the references, by its id.

    Raises:
        InputError: references without ids, or with one that has no answer.
    """
    wanted = _ids(references)
    if wanted is None:
        found = ", ".join(list(answers)[:3])
        raise InputError(
            f"{path} holds answers by id ({found}), and {references} no `id` for each of its questions; "
            "give outputs in the order of the references, or if it is one record name a field: "
            "--field hypotheses=NAME"
        )
    if missing := [one for one in wanted if one not in answers]:
        raise InputError(
            f"{path} has no answer to {missing[0]!r} of {references} ({len(missing):,} of {len(wanted):,} "
            'are missing); give one for each, "" for none'
        )
    if others := len(answers) - len(wanted):
        log.warn(f"{path} has {others:,} answers to questions that {references} has not; they are left out")
    return [answers[one] for one in wanted]


def aligned(
    texts: Sequence[str], path: str, fields: Sequence[str], references: str, references_in: Sequence[str]
) -> list[str]:
    """Outputs, put into another order where both files have the same ids in different ones.

    Args:
        fields, references_in: what is read of their records; where it is a number the columns have no names.
    """
    ours, theirs = _ids(path, fields), _ids(references, references_in)
    if ours is None or theirs is None or ours == theirs or set(ours) != set(theirs):
        return list(texts)
    log.say(f"{path} has the ids of {references} in another order; they were matched by id")
    by_id = dict(zip(ours, texts))
    return [by_id[one] for one in theirs]


def _ids(path: str, fields: Sequence[str] = ()) -> list[str] | None:
    """The `id` of every record, or None where one has none, or two the same."""
    if not has_records(path) or any(name.isdecimal() for name in fields):
        return None
    ids = [row.get("id") for _, _, row in read_records(path)]
    named = all(isinstance(one, (str, int)) for one in ids) and len(set(ids)) == len(ids)
    return [str(one) for one in ids] if named and ids else None
