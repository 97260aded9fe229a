"""WordPiece tokenizers as BERT uses them, kept as JSON."""

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tokenizers import Tokenizer

SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")


def build_vocab(texts: Iterable[str]) -> list[str]:
    """A vocabulary that encodes `texts` word by word, and other words character by character.

    Parameters
    ----------
    texts : iterable of str
        In any order, with or without repetitions: neither changes the result.

    Returns
    -------
    list of str
        BERT's special tokens, the words of the texts after BERT's normalisation (lower case, accents
        stripped, split at whitespace and punctuation), then every printable ASCII character and every
        character of the texts, each also as the continuation of a word (``##``).
    """
    from tokenizers.normalizers import BertNormalizer
    from tokenizers.pre_tokenizers import BertPreTokenizer

    normalise, split = BertNormalizer(lowercase=True), BertPreTokenizer()
    words = {word for text in texts for word, _ in split.pre_tokenize_str(normalise.normalize_str(str(text)))}
    ascii_characters = {normalise.normalize_str(chr(code)) for code in range(0x21, 0x7F)}
    characters = sorted(ascii_characters.union(*words))
    pieces = [*SPECIAL, *sorted(words), *characters, *(f"##{c}" for c in characters)]
    return list(dict.fromkeys(pieces))


def make_tokenizer(facts: Mapping[str, Any], max_tokens: int) -> "Tokenizer":
    """A tokenizer from the facts of a text conditioner.

    Parameters
    ----------
    facts : mapping
        Either ``tokenizer``, the parsed content of a ``tokenizer.json``; or ``vocab``, a list of tokens in
        the order of their ids, and ``lowercase``.
    max_tokens : int
        Longer texts are cut, [CLS] and [SEP] included.

    Returns
    -------
    tokenizers.Tokenizer
        Without padding. It can be pickled.
    """
    import json

    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

    if "tokenizer" in facts:
        tokenizer = Tokenizer.from_str(json.dumps(facts["tokenizer"]))
    else:
        ids = {token: i for i, token in enumerate(facts["vocab"])}
        tokenizer = Tokenizer(models.WordPiece(ids, unk_token="[UNK]"))
        tokenizer.normalizer = normalizers.BertNormalizer(lowercase=facts.get("lowercase", True))
        tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
        tokenizer.post_processor = processors.BertProcessing(("[SEP]", ids["[SEP]"]), ("[CLS]", ids["[CLS]"]))
    tokenizer.no_padding()
    tokenizer.enable_truncation(max_tokens)
    return tokenizer
