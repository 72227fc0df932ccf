"""Added tokens, such as ``<hl>`` or ``[SEP]``: they stand for themselves in a text, and no tokenizer may cut them."""

from __future__ import annotations

import re
from dataclasses import asdict, dataclass, fields
from typing import Any, Dict, Iterable, Iterator, List, Optional, Tuple


@dataclass(frozen=True)
class AddedToken:
    """One added token, with the attributes that Hugging Face's tokenizers give it.

    Attributes:
        token: the text that it stands for.
        symbol: its symbol in fairseq's dictionary.
        special: whether decoded text leaves it out, as ``decode(..., skip_special_tokens=True)`` does.
        lstrip, rstrip: whether it takes the white space before it, or after it, with it.
        single_word: whether it must not be part of a longer word.
    """

    token: str
    symbol: str
    special: bool = False
    lstrip: bool = False
    rstrip: bool = False
    single_word: bool = False

    def as_json(self) -> Dict[str, Any]:
        return asdict(self)

    @classmethod
    def of_json(cls, values: Dict[str, Any]) -> AddedToken:
        """Makes a token of its attributes.

        Raises:
            ValueError: the values do not describe a token.
        """
        known = {field.name: type(field.default) for field in fields(cls)}
        if not isinstance(values, dict) or not set(values) <= set(known) or not {"token", "symbol"} <= set(values):
            raise ValueError(
                f"an added token must have token, symbol and no others than {', '.join(known)}; it is {values!r}"
            )
        if not all(isinstance(values[name], str) and values[name] for name in ("token", "symbol")):
            raise ValueError(f"token and symbol of an added token must be texts; they are {values!r}")
        if values["symbol"].split() != [values["symbol"]]:
            raise ValueError(f"the symbol of an added token must have no white space in it; it is {values['symbol']!r}")
        flags = {name: values.get(name, False) for name in list(known)[2:]}
        if not all(isinstance(flag, bool) for flag in flags.values()):
            raise ValueError(f"flags of an added token must be true or false; they are {flags!r}")
        return cls(**{**values, **flags})


class AddedTokens:
    """All added tokens of a tokenizer."""

    def __init__(self, tokens: Iterable[AddedToken]):
        self.tokens = list(tokens)
        self.by_symbol = {token.symbol: token for token in self.tokens}
        self._by_text = {token.token: token for token in self.tokens}
        longest_first = sorted(self.tokens, key=lambda token: len(token.token), reverse=True)
        self._pattern = re.compile("|".join(map(_pattern, longest_first))) if longest_first else None

    def split(self, text: str) -> Iterator[Tuple[Optional[AddedToken], str]]:
        """Splits a text into added tokens and the parts between them (with None), in their order."""
        end = 0
        for match in self._pattern.finditer(text) if self._pattern is not None else ():
            if match.start() > end:
                yield None, text[end : match.start()]
            found = next(group for group in match.groups() if group is not None)
            yield self._by_text[found], found
            end = match.end()
        if end < len(text):
            yield None, text[end:]

    def encode(self, text: str, encode: Any) -> List[str]:
        """Returns the symbols of a text; ``encode`` returns those of a part without added tokens."""
        return [
            symbol
            for token, part in self.split(text)
            for symbol in ([token.symbol] if token is not None else encode(part))
        ]


def _pattern(token: AddedToken) -> str:
    text = f"({re.escape(token.token)})"
    if token.single_word:
        text = rf"(?<!\w){text}(?!\w)"
    return (r"\s*" if token.lstrip else "") + text + (r"\s*" if token.rstrip else "")
