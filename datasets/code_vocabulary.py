"""Vocabularies of syntax trees and of names, and names as rows of numbers, as in ogbg-code2."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from datasets.code_trees import MASK, Tree, subtokens

#: Sub-tokens that are predicted, and sizes of the vocabularies; rarer ones are unknown.
LENGTH, TOKENS, ATTRIBUTES = 5, 5_000, 10_000
#: Words of an attribute that are read, and the size of their vocabulary.
WORDS_READ, WORDS = 4, 10_000
#: The first attributes and words: none, one outside of the vocabulary, the own name.
NONE, UNKNOWN, OWN = 0, 1, 2
SPECIAL = ("__NONE__", "__UNK__", MASK)


@dataclass(frozen=True)
class Vocabulary:
    """What the numbers of a graph mean, from the training part alone.

    Args:
        types: names of classes of :mod:`ast`; a further number, ``len(types)``, is for others.
        attributes: texts; the first three are SPECIAL.
        words: of which attributes consist, as names do; the first three are SPECIAL.
        tokens: sub-tokens by frequency. Two further numbers are for unknown ones and for the end
            of a name, as in ogbg-code2.
    """

    types: list[str]
    attributes: list[str]
    words: list[str]
    tokens: list[str]

    @cached_property
    def _numbers(self) -> dict[str, int]:
        return {word: i for i, word in enumerate(self.tokens)}

    @property
    def unknown(self) -> int:
        return len(self.tokens)

    @property
    def end(self) -> int:
        return len(self.tokens) + 1

    def encode(self, words: list[str]) -> Tensor:
        """[1, 5] numbers of the first words, filled up with the end mark."""
        row = [self._numbers.get(word, self.unknown) for word in words[:LENGTH]]
        return torch.tensor([row + [self.end] * (LENGTH - len(row))])

    def decode(self, rows: Tensor) -> list[list[str]]:
        """The words before the first end mark of each row [B, 5]; unknown ones are ``__UNK__``."""
        words = [*self.tokens, "__UNK__"]
        found = []
        for row in rows.tolist():
            stop = row.index(self.end) if self.end in row else len(row)
            found.append([words[i] for i in row[:stop]])
        return found


def attribute_words(text: str | None) -> list[str]:
    """The first words of an attribute that are read; none of the masked name."""
    return [] if text is None or text == MASK else subtokens(text)[:WORDS_READ]


def make_vocabulary(trees: Iterable[Tree]) -> Vocabulary:
    """The most frequent attributes, words and sub-tokens of some functions, ties in alphabetical
    order."""
    types: set[str] = set()
    attributes, words, tokens = Counter(), Counter(), Counter()
    for found in trees:
        types.update(found.types)
        attributes.update(text for text in found.attributes if text is not None and text != MASK)
        tokens.update(subtokens(found.name))
    for text, count in attributes.items():
        for word in attribute_words(text):
            words[word] += count
    return Vocabulary(
        sorted(types),
        [*SPECIAL, *_frequent(attributes, ATTRIBUTES)],
        [*SPECIAL, *_frequent(words, WORDS)],
        _frequent(tokens, TOKENS),
    )


def _frequent(counts: Counter, most: int) -> list[str]:
    order = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    return [word for word, _ in order[:most]]
