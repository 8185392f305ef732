"""What needs no Transformer, scored as the applications are: what a trained model has to beat.

    python benchmarks/baselines.py subjects --train train.csv --data dev.csv --field source=body target=topic
    python benchmarks/baselines.py labels --train train.csv --data dev.csv --field source=TEXT target=label

`subjects`: the first line of a text, and the most frequent target of the training data. `labels`: the most
frequent label, and logistic regression on tf-idf of character n-grams (scikit-learn, which lm-eval brings).
"""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace

from plait.data.pairs import pair_of
from plait.eval.options import Options
from plait.eval.outputs import scores
from plait.eval.scores import Score, describe_data, write_scores
from plait.recipes.evaluate_outputs import show_scores
from plait.text.readers import read

NGRAMS, REGULARIZATION = (1, 2), 10.0  # the best of twelve on a tenth of COLD's training data
METRICS = {"subjects": ("rouge1", "rouge2", "rougeL"), "labels": ("accuracy", "macro_f1")}

Pairs = list[tuple[str, str]]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("kind", choices=METRICS)
    parser.add_argument("--train", required=True)
    parser.add_argument("--data", required=True, help="what is scored")
    parser.add_argument("--field", nargs=2, required=True, help="columns, as plait evaluate takes them")
    parser.add_argument("--out", help="write scores here, as JSON")
    options = parser.parse_args()
    fields = {name: column for name, _, column in (word.partition("=") for word in options.field)}
    train, test = pairs(options.train, fields), pairs(options.data, fields)
    baselines = subjects if options.kind == "subjects" else labels
    found: list[Score] = []
    for name, said in baselines(train, [source for source, _ in test]):
        made = scores(
            METRICS[options.kind], Options(stem=options.kind == "subjects"), hypotheses=said,
            references=[[target for _, target in test]],
        )  # fmt: skip
        made = [replace(score, task=name, data=describe_data([options.data])) for score in made]
        show_scores(name, made)
        found += made
    if options.out:
        write_scores(options.out, "baselines", found)


def pairs(path: str, fields: dict[str, str]) -> Pairs:
    """Sources and targets of a file."""
    found = [pair_of(document) for document in read(path, fields=fields)]
    return [pair for pair in found if pair is not None and all(pair)]


def subjects(train: Pairs, texts: list[str]) -> Iterator[tuple[str, list[str]]]:
    """The first line, and the most frequent target."""
    yield "first line", [text.strip().splitlines()[0].strip() for text in texts]
    yield from _most_frequent(train, texts)


def labels(train: Pairs, texts: list[str]) -> Iterator[tuple[str, list[str]]]:
    """The most frequent label, and logistic regression on character n-grams."""
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline

    yield from _most_frequent(train, texts)
    model = make_pipeline(
        TfidfVectorizer(analyzer="char", ngram_range=NGRAMS, min_df=2, sublinear_tf=True),
        LogisticRegression(C=REGULARIZATION, max_iter=1000),
    )
    model.fit([source for source, _ in train], [target for _, target in train])
    yield "character n-grams", list(model.predict(texts))


def _most_frequent(train: Pairs, texts: list[str]) -> Iterator[tuple[str, list[str]]]:
    ((most, _),) = Counter(target for _, target in train).most_common(1)
    yield f"most frequent: {most}", [most] * len(texts)


if __name__ == "__main__":
    main()
